// Records the microphone's samples as they are, and plays them enhanced in the meantime.

const RAW = { echoCancellation: false, noiseSuppression: false, autoGainControl: false }; // enhancing is up to the model

export class Recorder {
  // stream: opens a stream in the worker that enhances what comes through a port. onHop: called with each hop, and the
  // number of hops so far that came too late to be played.
  static async open(model, stream, onHop) {
    if (!navigator.mediaDevices) throw new Error("This browser gives the microphone to pages on localhost or https alone.");
    const recorder = new Recorder();
    recorder.hops = [];
    recorder.media = await navigator.mediaDevices.getUserMedia({ audio: RAW });
    try {
      await recorder.connect(model, stream, onHop);
    } catch (error) {
      await recorder.close();
      throw error;
    }
    return recorder;
  }

  async connect(model, stream, onHop) {
    this.live = await this.listen({ sampleRate: model.sample_rate, latencyHint: "interactive" })
      || (await this.listen({}), false); // Firefox records at the microphone's own rate only
    await this.context.audioWorklet.addModule("microphone.js");
    const node = new AudioWorkletNode(this.context, "microphone", {
      channelCount: 1, channelCountMode: "explicit", outputChannelCount: [1], processorOptions: { hop: model.hop_length },
    });
    node.port.onmessage = ({ data: { hop, late } }) => {
      this.hops.push(hop);
      onHop(hop, late);
    };
    if (this.live) {
      const { port1, port2 } = new MessageChannel();
      await stream(port1);
      node.port.postMessage({ worker: port2 }, [port2]);
    }
    this.volume = new GainNode(this.context, { gain: 0 });
    this.source.connect(node).connect(this.volume).connect(this.context.destination);
    await this.context.resume();
  }

  // opens an audio context for the microphone; returns whether the browser allows it at this sample rate
  async listen(options) {
    this.context = new AudioContext(options);
    try {
      this.source = this.context.createMediaStreamSource(this.media);
      return true;
    } catch (error) {
      if (error.name !== "NotSupportedError" || !options.sampleRate) throw error;
      await this.context.close();
      return false;
    }
  }

  hear(audible) {
    this.volume.gain.setTargetAtTime(audible ? 1 : 0, this.context.currentTime, 0.02);
  }

  async close() {
    for (const track of this.media.getTracks()) track.stop();
    if (this.context?.state !== "closed") await this.context?.close();
  }

  // the whole recording as an AudioBuffer; null if it is empty
  get recorded() {
    const length = this.hops.reduce((sum, hop) => sum + hop.length, 0);
    if (!length) return null;
    const buffer = new AudioBuffer({ length, sampleRate: this.context.sampleRate });
    let start = 0;
    for (const hop of this.hops) {
      buffer.copyToChannel(hop, 0, start);
      start += hop.length;
    }
    return buffer;
  }
}
