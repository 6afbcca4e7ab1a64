// Runs the models outside the page's own thread, one hop at a time as on a device.

import * as ort from "./onnxruntime/ort.wasm.bundle.min.mjs";
import { mix } from "./attenuation.js";
import { power } from "./spectrogram.js";

ort.env.wasm.numThreads = 1; // matrices this small lose more than they gain with two
ort.env.wasm.wasmPaths = { wasm: new URL("./onnxruntime/ort-wasm-simd-threaded.wasm", import.meta.url).href };

const LOUDEST = 10; // times full scale; louder samples, and NaN, would stay in a model's states for ever
const REPORT = 100; // ms between two reports of progress
const sessions = new Map();
let latest = 0; // id of the latest job; earlier ones stop
let wanted = 0; // share of the noisy signal in what is heard of a microphone

const jobs = {
  enhance, stream,
  limit: ({ share }) => { wanted = share; },
  picture: ({ wave, rate }) => power(wave, rate),
};

self.onmessage = async ({ data: { id, job, ...request } }) => {
  if (job === "enhance") latest = id;
  try {
    self.postMessage({ id, result: await jobs[job]({ id, ...request }) });
  } catch (error) {
    const reason = error.message ?? error;
    self.postMessage({ id, error: request.model ? `${request.model.name} can't be used here: ${reason}` : reason });
  }
};

// enhances a whole wave by a stream, and removes the model's latency from its output
async function enhance({ id, model, wave }) {
  const stream = await open(model), { hop_length: hop, latency } = model;
  const hops = Math.ceil((wave.length + latency) / hop);
  const enhanced = new Float32Array(hops * hop), padded = new Float32Array(hops * hop), times = new Float64Array(hops);
  padded.set(wave);
  let reported = performance.now();
  for (let index = 0; index < hops; index++) {
    const begin = performance.now();
    enhanced.set(await stream.step(valid(padded.subarray(index * hop, (index + 1) * hop))), index * hop);
    times[index] = performance.now() - begin;
    if (begin - reported < REPORT) continue;
    reported = begin;
    self.postMessage({ id, progress: index / hops });
    await new Promise(resolve => setTimeout(resolve)); // a newer job may be waiting
    if (latest !== id) return null;
  }
  return { wave: enhanced.slice(latency, latency + wave.length), ...figures(times, model) };
}

function figures(times, { hop_length: hop, sample_rate: rate }) {
  const factor = times.reduce((sum, time) => sum + time) / (1000 * times.length * hop / rate);
  times.sort();
  const quantile = part => times[Math.floor(part * (times.length - 1))];
  return { factor, median: quantile(0.5), p95: quantile(0.95) };
}

// enhances the hops that come through a port and sends them back through it
async function stream({ id, model, port }) {
  const stream = await open(model);
  let last = Promise.resolve(), times = [], part = wanted;
  let noisy = new Float32Array(model.latency); // the latest samples, as many as the output is late
  port.onmessage = ({ data }) => {
    last = last.then(async () => {
      const begin = performance.now();
      const hop = valid(data), line = new Float32Array(noisy.length + hop.length);
      line.set(noisy);
      line.set(hop, noisy.length);
      noisy = line.slice(hop.length);
      const before = part;
      part = wanted;
      const enhanced = mix(line.subarray(0, hop.length), await stream.step(hop), before, part);
      times.push(performance.now() - begin);
      port.postMessage(enhanced, [enhanced.buffer]);
      if (times.length * model.hop_length < 0.25 * model.sample_rate) return;
      self.postMessage({ id, progress: figures(Float64Array.from(times), model) });
      times = [];
    });
  };
}

// a copy in which invalid samples are silence
const valid = hop => hop.map(sample => Math.abs(sample) <= LOUDEST ? sample : 0);

async function open(model) {
  if (!sessions.has(model.url)) {
    sessions.set(model.url, load(model));
    sessions.get(model.url).catch(() => sessions.delete(model.url));
  }
  return new Stream(await sessions.get(model.url), model);
}

async function load(model) {
  const response = await fetch(model.url);
  if (!response.ok) throw new Error(`the server no longer has its file (${response.status})`);
  const session = await ort.InferenceSession.create(await response.arrayBuffer());
  const stream = new Stream(session, model);
  for (let time = 0; time < 5; time++) await stream.step(new Float32Array(model.hop_length)); // the first hops are slow
  return session;
}

class Stream {
  constructor(session, model) {
    this.session = session;
    this.model = model;
    this.states = Object.fromEntries(model.states.map(({ input, shape }) =>
      [input, new ort.Tensor("float32", new Float32Array(shape.reduce((a, b) => a * b, 1)), shape)]));
  }

  // enhances one hop of valid samples
  async step(hop) {
    const { input, output, hop_length, states } = this.model;
    const results = await this.session.run({ [input]: new ort.Tensor("float32", hop, [1, hop_length]), ...this.states });
    for (const state of states) this.states[state.input] = results[state.output];
    return results[output].data;
  }
}
