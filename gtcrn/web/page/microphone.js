// Runs on the audio thread: cuts the microphone's samples into hops, and plays the enhanced ones from the worker.

const BUFFERED = 2; // hops in the queue before playback begins, so that one that is a little late still comes in time

class Microphone extends AudioWorkletProcessor {
  constructor({ processorOptions: { hop } }) {
    super();
    this.hop = new Float32Array(hop);
    this.count = 0;
    this.queue = [];
    this.played = 0; // samples of the first hop in the queue
    this.playing = false;
    this.late = 0; // how often the queue ran empty
    this.port.onmessage = ({ data: { worker } }) => {
      this.worker = worker;
      worker.onmessage = ({ data: enhanced }) => this.queue.push(enhanced);
    };
  }

  process([[input]], [[output]]) {
    if (input) this.record(input);
    this.play(output);
    return true;
  }

  record(input) {
    for (const sample of input) {
      this.hop[this.count++] = sample;
      if (this.count < this.hop.length) continue;
      this.count = 0;
      this.port.postMessage({ hop: this.hop, late: this.late });
      this.worker?.postMessage(this.hop);
    }
  }

  play(output) {
    // catches up after a delay of the worker
    if (this.queue.length > 2 * BUFFERED) this.queue.splice(0, this.queue.length - BUFFERED);
    if (!this.playing) this.playing = this.queue.length >= BUFFERED;
    for (let n = 0; n < output.length && this.playing; n++) {
      output[n] = this.queue[0][this.played++];
      if (this.played < this.queue[0].length) continue;
      this.played = 0;
      this.queue.shift();
      if (this.queue.length) continue;
      this.playing = false;
      this.late++;
    }
  }
}

registerProcessor("microphone", Microphone);
