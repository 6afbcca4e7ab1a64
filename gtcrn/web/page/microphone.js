// On the audio thread: cuts what the microphone hears into hops, and plays those that come back from the worker.

const WAITING = 2; // hops held back, so that one that is a little late still comes in time

class Microphone extends AudioWorkletProcessor {
  constructor({ processorOptions: { hop } }) {
    super();
    this.filled = new Float32Array(hop);
    this.count = 0;
    this.queue = [];
    this.played = 0; // samples of the first in the queue
    this.flowing = false;
    this.late = 0;
    this.port.onmessage = ({ data: { worker } }) => {
      this.worker = worker;
      worker.onmessage = ({ data: enhanced }) => this.queue.push(enhanced);
    };
  }

  process([[input]], [[output]]) {
    if (input) this.listen(input);
    this.speak(output);
    return true;
  }

  listen(input) {
    for (const sample of input) {
      this.filled[this.count++] = sample;
      if (this.count < this.filled.length) continue;
      this.count = 0;
      this.port.postMessage({ hop: this.filled, late: this.late });
      this.worker?.postMessage(this.filled);
    }
  }

  speak(output) {
    if (this.queue.length > 2 * WAITING) this.queue.splice(0, this.queue.length - WAITING); // after a jam: catch up
    if (!this.flowing) this.flowing = this.queue.length >= WAITING;
    for (let n = 0; n < output.length && this.flowing; n++) {
      output[n] = this.queue[0][this.played++];
      if (this.played < this.queue[0].length) continue;
      this.played = 0;
      this.queue.shift();
      if (this.queue.length) continue;
      this.flowing = false;
      this.late++;
    }
  }
}

registerProcessor("microphone", Microphone);
