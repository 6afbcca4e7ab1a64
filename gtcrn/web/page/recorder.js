// The microphone: its samples recorded as they are, and heard enhanced meanwhile.

const RAW = { echoCancellation: false, noiseSuppression: false, autoGainControl: false }; // that is the model's part

export class Recorder {
  // stream: opens one in the worker for what comes through a port. heard: told each hop, and how often one came too
  // late to be played.
  static async open(model, stream, heard) {
    if (!navigator.mediaDevices) throw new Error("This browser gives the microphone to pages on localhost or https alone.");
    const recorder = new Recorder();
    recorder.hops = [];
    recorder.media = await navigator.mediaDevices.getUserMedia({ audio: RAW });
    try {
      await recorder.connect(model, stream, heard);
    } catch (error) {
      await recorder.close();
      throw error;
    }
    return recorder;
  }

  async connect(model, stream, heard) {
    this.live = await this.listen({ sampleRate: model.sample_rate, latencyHint: "interactive" })
      || (await this.listen({}), false); // Firefox records at the microphone's own rate only
    await this.context.audioWorklet.addModule("microphone.js");
    const node = new AudioWorkletNode(this.context, "microphone", {
      channelCount: 1, channelCountMode: "explicit", outputChannelCount: [1], processorOptions: { hop: model.hop_length },
    });
    node.port.onmessage = ({ data: { hop, late } }) => {
      this.hops.push(hop);
      heard(hop, late);
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

  // whether the microphone can be heard in such a context
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

  // everything recorded, as an AudioBuffer; null if there is nothing
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
