// Plays signals of the same length in parallel and lets one be heard, so that switching between them restarts nothing.

const FADE = 0.004; // s, time constant; rising and falling gains add up to one, so a switch neither clicks nor dips

export class Player {
  // changed: called when another signal is active, or playback starts or stops
  constructor(changed) {
    this.changed = changed;
    this.clips = new Map(); // key -> AudioBuffer
    this.empty();
  }

  empty() {
    this.clips.clear();
    this.active = null; // key of the signal that is let through
    this.playing = false;
    this.position = 0;
  }

  clear() {
    this.halt();
    this.empty();
    this.changed();
  }

  get seconds() {
    return Math.max(0, ...[...this.clips.values()].map(clip => clip.duration));
  }

  get time() {
    if (!this.run) return this.position;
    return Math.min(this.run.from + Math.max(0, this.context.currentTime - this.run.begin), this.seconds);
  }

  // adds a clip and makes it active, or replaces the one of this key; playback goes on at the same position
  add(key, clip) {
    const known = this.clips.has(key);
    this.halt();
    this.clips.set(key, clip);
    if (known) this.changed();
    else this.choose(key);
    if (this.playing) this.start();
  }

  choose(key) {
    if (!this.clips.has(key)) return;
    this.active = key;
    this.run?.gains.forEach((gain, other) => this.fade(gain, other === key ? 1 : 0, this.context.currentTime));
    this.changed();
  }

  toggle() {
    if (this.playing) this.pause();
    else this.play();
  }

  async play() {
    if (!this.clips.size) return;
    this.playing = true;
    this.changed();
    this.context ??= new AudioContext();
    await this.context.resume();
    if (this.playing) this.start();
  }

  pause() {
    this.halt();
    this.playing = false;
    this.changed();
  }

  seek(time) {
    this.halt();
    this.position = Math.min(Math.max(time, 0), this.seconds);
    if (this.playing) this.start();
    this.changed();
  }

  start() {
    this.halt();
    const { context } = this, from = this.position < this.seconds - 0.005 ? this.position : 0;
    const begin = context.currentTime + 0.01; // a little later, so that all clips begin at the same sample
    const bus = new GainNode(context, { gain: 0 });
    bus.connect(context.destination);
    this.fade(bus, 1, begin);
    const gains = new Map();
    const sources = [...this.clips].map(([key, buffer]) => {
      const gain = new GainNode(context, { gain: key === this.active ? 1 : 0 });
      const source = new AudioBufferSourceNode(context, { buffer });
      source.connect(gain).connect(bus);
      source.start(begin, from);
      gains.set(key, gain);
      return source;
    });
    const run = this.run = { begin, from, bus, gains, sources };
    sources[0].onended = () => {
      if (this.run !== run) return;
      this.run = null;
      this.playing = false;
      this.position = 0;
      this.changed();
    };
    this.changed();
  }

  // stops playback and keeps the position
  halt() {
    if (!this.run) return;
    const { bus, sources } = this.run;
    this.position = this.time;
    this.run = null;
    this.fade(bus, 0, this.context.currentTime);
    for (const source of sources) source.stop(this.context.currentTime + 10 * FADE);
  }

  fade({ gain }, value, when) {
    gain.setTargetAtTime(value, when, FADE);
  }
}
