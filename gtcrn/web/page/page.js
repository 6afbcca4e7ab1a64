import { mix, share } from "./attenuation.js";
import { Player } from "./player.js";
import { Recorder } from "./recorder.js";
import { draw, gradient } from "./spectrogram.js";
import { openBuffer, openFile, wav } from "./wave.js";

const LOUDEST = 10; // times full scale; a louder recording holds integers, or is damaged
const SILENCE = 1e-4; // -80 dBFS; a lower peak is nothing but dither
const BEFORE = "before";
const byId = id => document.getElementById(id);

const { models, attenuation_limit_db } = await (await fetch("page.json")).json();
const top = Math.max(...models.map(model => model.sample_rate)); // rate of the noisy recording: the highest of any model's
let sound = null; // the recording that is shown: {name, waveAt: rate -> wave, seconds, limits in dB, outputs by model}
let recorder = null;

// ---- small things

// sets text only as text, never as HTML, since names of files may hold anything
function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== false) node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

function icon(playing) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  svg.setAttribute("viewBox", "0 0 10 12");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  path.setAttribute("d", playing ? "M0 0h3.5v12H0zM6.5 0H10v12H6.5z" : "M0 0l10 6-10 6z");
  svg.append(path);
  return svg;
}

const written = (value, digits) => value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
const precise = value => value.toLocaleString("en", { maximumSignificantDigits: 2 });
const kilohertz = rate => `${precise(rate / 1000)} kHz`;

function showMessage(message) {
  byId("message").textContent = message;
  byId("message").hidden = !message;
}

function busy(text, part = null) {
  byId("work").hidden = !text;
  byId("doing").textContent = text;
  if (part === null) byId("progress").removeAttribute("value");
  else byId("progress").value = part;
}

// ---- the worker

const waiting = new Map();
let jobs = 0;
const worker = new Worker("worker.js", { type: "module" });

worker.onmessage = ({ data: { id, result, error, progress } }) => {
  const { resolve, reject, report } = waiting.get(id);
  if (progress !== undefined) report(progress);
  else if (error !== undefined) reject(new Error(error));
  else resolve(result);
};
const broken = new Promise((_, reject) => {
  worker.onerror = () => reject(new Error("onnxruntime-web did not start: start task=serve again, and reload this page."));
});
broken.catch(() => {}); // every request that waits reports it

function ask(job, request, transfer = [], report = () => {}) {
  const id = ++jobs;
  const answer = new Promise((resolve, reject) => { waiting.set(id, { resolve, reject, report }); });
  worker.postMessage({ id, job, ...request }, transfer);
  return Promise.race([answer, broken]);
}

// ---- the models

function chosen() {
  return models[Number(document.querySelector("#models :checked").value)];
}

function makeModels() {
  byId("models").append(...models.map((model, index) => {
    const latency = 1000 * (model.latency + model.hop_length) / model.sample_rate;
    const facts = `${kilohertz(model.sample_rate)}, latency ${precise(latency)} ms, ${precise(model.bytes / 1e6)} MB, licence ${model.licence}`;
    const radio = make("input", { type: "radio", name: "model", value: index, checked: index === 0, onchange: use });
    return make("label", { class: "model", title: `${model.system}: ${model.origin}` }, radio,
      make("div", {}, make("strong", {}, model.name), make("span", { class: "muted number" }, facts)));
  }));
}

// ---- the limit of attenuation

// in dB; null at the right end, where there is none
function limit() {
  const { value, max } = byId("limit");
  return value === max ? null : Number(value);
}

function showLimit() {
  byId("limit-value").textContent = limit() === null ? "no limit" : `${Number(limit().toFixed(1))} dB`;
  byId("limit").setAttribute("aria-valuetext", byId("limit-value").textContent);
  ask("limit", { share: share(limit()) }).catch(() => {}); // a worker that is broken is told of elsewhere
}

// mixes anew what the models have made
async function remix() {
  const current = sound;
  for (const model of current?.outputs.keys() ?? []) {
    if (sound === current) await showOutput(model);
  }
}

byId("limit").value = attenuation_limit_db ?? byId("limit").max;
byId("limit").addEventListener("input", showLimit);
byId("limit").addEventListener("change", remix);

// ---- before and after

// shows a recording. read: returns a function from a rate to the wave. advice: what to do if it is silent.
async function open(name, read, advice = "") {
  const current = sound = { name, outputs: new Map() };
  player.clear();
  for (const link of byId("panels").querySelectorAll("a")) URL.revokeObjectURL(link.href);
  byId("panels").replaceChildren();
  for (const id of ["facts", "hint"]) byId(id).hidden = true;
  showMessage("");
  busy(`Reading ${name}`);
  try {
    current.waveAt = await read();
    const wave = await current.waveAt(top);
    check(name, wave, advice);
    const picture = await ask("picture", { wave, rate: top });
    if (sound !== current) return;
    current.seconds = wave.length / top;
    current.limits = picture.limits;
    showFacts();
    addPanel(BEFORE, "Before", wave, top, picture, [["What is heard", `the recording at ${kilohertz(top)}`]]);
    await use();
  } catch (error) {
    if (sound !== current) return;
    busy("");
    showMessage(error.message);
  }
}

function check(name, wave, advice) {
  const peak = wave.reduce((most, sample) => Math.max(most, Math.abs(sample)), 0);
  if (!Number.isFinite(peak)) throw new Error(`${name} holds samples that are no numbers: write it anew.`);
  if (peak > LOUDEST) throw new Error(`${name} holds samples of ${peak.toPrecision(2)} times full scale: divide them first.`);
  if (peak < SILENCE) throw new Error(`${name} is silent: its peak is below −80 dBFS. ${advice}`);
}

// enhances with the chosen model, or chooses its earlier output
async function use() {
  showMessage("");
  const model = chosen(), current = sound;
  if (!current?.limits) return;
  if (player.clips.has(model.url)) {
    player.choose(model.url);
    return;
  }
  busy(`Loading ${model.name}`);
  try {
    const wave = await current.waveAt(model.sample_rate);
    const result = await ask("enhance", { model, wave }, [], part => busy(`${model.name}: ${Math.round(100 * part)} %`, part));
    if (!result || sound !== current) return; // the user has chosen another one in the meantime
    current.outputs.set(model, { noisy: wave, ...result });
    await showOutput(model);
    if (sound === current && model === chosen()) busy("");
  } catch (error) {
    if (sound !== current || model !== chosen()) return;
    busy("");
    showMessage(error.message);
  }
}

// shows what a model has made of the recording, as far as the limit lets it
async function showOutput(model) {
  const current = sound, output = current.outputs.get(model);
  const wave = mix(output.noisy, output.wave, share(limit()));
  const picture = await ask("picture", { wave, rate: model.sample_rate });
  if (sound !== current) return;
  addPanel(model.url, model.name, wave, model.sample_rate, picture, speed(output, model), download(wave, model));
}

function speed({ median, p95, factor }, { hop_length, sample_rate }) {
  const verdict = factor < 1 ? `${precise(1 / factor)} × faster than real time` : `${precise(factor)} × slower than real time`;
  const hop = precise(1000 * hop_length / sample_rate);
  return [
    ["Time per hop", `${precise(median)} ms of ${hop} ms (95 % within ${precise(p95)} ms)`],
    ["Real-time factor", `${precise(factor)}, `, make("span", { class: factor < 1 ? "good" : "flaw" }, verdict)],
  ];
}

function download(wave, model) {
  const stem = sound.name.replace(/\.[^.]*$/, "");
  return make("a", {
    href: URL.createObjectURL(wav(wave, model.sample_rate)), download: `${stem}_${model.name.replaceAll("/", "_")}.wav`,
  }, "Download as WAV");
}

function showFacts() {
  byId("facts").hidden = false;
  byId("name").textContent = sound.name;
  byId("seconds").textContent = `${written(sound.seconds, 2)} s`;
  byId("darkest").textContent = written(sound.limits[0], 0).replace("-", "−");
  byId("brightest").textContent = written(sound.limits[1], 0).replace("-", "−");
}

function addPanel(key, label, wave, rate, picture, figures, ...more) {
  const canvas = make("canvas", { role: "img", "aria-label": `Spectrogram of ${label}, 0 to ${kilohertz(rate / 2)}` });
  draw(canvas, picture, sound.limits);
  canvas.style.height = `${100 * rate / top}%`;
  const plot = make("div", {
    class: "plot",
    onclick(event) {
      const box = plot.getBoundingClientRect();
      player.choose(key);
      player.seek((event.clientX - box.left) / box.width * player.seconds);
    },
  }, canvas, make("div", { class: "playhead" }), ...ticks());
  const listen = make("button", {
    class: "listen",
    onclick() {
      if (player.active === key) player.toggle();
      else {
        player.choose(key);
        if (!player.playing) player.play();
      }
    },
  }, icon(false), make("span", {}, label));
  const clip = new AudioBuffer({ length: wave.length, sampleRate: rate });
  clip.copyToChannel(wave, 0);
  const panel = make("article", { "data-key": key, "aria-label": label }, listen, plot,
    make("dl", { class: "number" }, ...figures.flatMap(([term, ...text]) => [make("dt", {}, term), make("dd", {}, ...text)])), ...more);
  const earlier = [...byId("panels").children].find(other => other.dataset.key === key);
  if (earlier) {
    URL.revokeObjectURL(earlier.querySelector("a").href);
    earlier.replaceWith(panel);
  } else byId("panels").append(panel);
  player.add(key, clip);
}

function ticks() {
  const tick = (axis, side, part, text) => {
    const node = make("span", { class: `tick ${axis}`, "aria-hidden": "true" }, text);
    node.style[side] = `${100 * part}%`;
    return node;
  };
  const step = [0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60, 120, 300].find(step => sound.seconds / step <= 5) ?? 600;
  const times = Array.from({ length: Math.ceil(0.85 * sound.seconds / step) }, (_, n) => n * step);
  return [
    ...[0, 0.5, 1].map(part => tick("y", "bottom", part, part ? `${top * part / 2000}k` : "0")),
    ...times.map(time => tick("x", "left", time / sound.seconds, precise(time))),
    tick("x", "left", 1, `${written(sound.seconds, 1)} s`),
  ];
}

// ---- the player

const player = new Player(show);
const labelOf = key => key === BEFORE ? "Before" : models.find(model => model.url === key).name;
let frame = 0;

function show() {
  const { clips, active, playing } = player;
  byId("player").hidden = !clips.size;
  byId("play").replaceChildren(icon(playing));
  byId("play").setAttribute("aria-label", playing ? "Pause" : "Play");
  byId("seek").max = player.seconds;
  if (byId("choices").children.length !== clips.size) {
    byId("choices").replaceChildren(...[...clips.keys()].map((key, index) =>
      make("button", { value: key, onclick: () => player.choose(key) }, make("kbd", { "aria-hidden": "true" }, index + 1), labelOf(key))));
  }
  for (const button of byId("choices").children) {
    button.setAttribute("aria-pressed", button.value === active);
    if (button.value === active) button.scrollIntoView({ block: "nearest", inline: "nearest" });
  }
  for (const panel of byId("panels").children) {
    const chosen = panel.dataset.key === active;
    panel.classList.toggle("active", chosen);
    const button = panel.querySelector(".listen");
    button.setAttribute("aria-pressed", chosen);
    button.firstChild.replaceWith(icon(chosen && playing));
  }
  showTime();
}

function showTime() {
  const { time, seconds } = player;
  byId("panels").style.setProperty("--at", seconds ? time / seconds : 0);
  byId("seek").value = time;
  byId("seek").setAttribute("aria-valuetext", `${written(time, 1)} of ${written(seconds, 1)} seconds`);
  byId("time").textContent = `${written(time, 2)} / ${written(seconds, 2)} s`;
  cancelAnimationFrame(frame);
  if (player.run) frame = requestAnimationFrame(showTime);
}

byId("play").addEventListener("click", () => player.toggle());
byId("seek").addEventListener("input", event => player.seek(Number(event.target.value)));

const keys = {
  " ": () => player.toggle(),
  ArrowLeft: event => player.seek(player.time - (event.shiftKey ? 0.1 : 1)),
  ArrowRight: event => player.seek(player.time + (event.shiftKey ? 0.1 : 1)),
  0: () => player.seek(0),
};
for (let number = 1; number <= 9; number++) keys[number] = () => player.choose([...player.clips.keys()][number - 1]);

document.addEventListener("keydown", event => {
  const native = event.key === " " ? "button, summary, input, a" : "input[type=radio], #limit";
  if (event.ctrlKey || event.altKey || event.metaKey || event.target.closest(native)) return;
  if (!keys[event.key] || !player.clips.size) return;
  event.preventDefault();
  keys[event.key](event);
});
// after a click the space bar controls the player again; with the keyboard the focus stays
document.addEventListener("click", event => { if (event.detail) event.target.closest("button, summary, label")?.blur(); });

// ---- files

function openGiven(file) {
  if (file && !recorder) open(file.name, () => openFile(file));
}

byId("choose").addEventListener("click", () => byId("file").click());
byId("file").addEventListener("change", event => {
  openGiven(event.target.files[0]);
  event.target.value = ""; // so that choosing the same file again is a change too
});
for (const name of ["dragenter", "dragover"]) {
  document.addEventListener(name, event => {
    event.preventDefault();
    document.body.classList.add("over");
  });
}
document.addEventListener("dragleave", event => { if (!event.relatedTarget) document.body.classList.remove("over"); });
document.addEventListener("drop", event => {
  event.preventDefault();
  document.body.classList.remove("over");
  openGiven(event.dataTransfer.files[0]);
});

// ---- the microphone

const refusals = {
  NotAllowedError: "The microphone was refused: allow it for this page beside the browser's address bar, or choose a file.",
  NotFoundError: "There is no microphone: plug one in, or choose a file.",
  NotReadableError: "The microphone can't be opened: another program may hold it.",
};

async function speak() {
  byId("speak").disabled = true;
  showMessage("");
  player.pause();
  try {
    if (recorder) await stopSpeaking();
    else await startSpeaking();
  } catch (error) {
    showMessage(refusals[error.name] ?? error.message);
  }
  showRecorder();
}

async function startSpeaking() {
  const model = chosen();
  let pace = "";
  const report = ({ median, factor }) => { pace = `${precise(median)} ms per hop, real-time factor ${precise(factor)}`; };
  const stream = port => ask("stream", { model, port }, [port], report);
  recorder = await Recorder.open(model, stream, (hop, late) => {
    byId("level").value = 20 * Math.log10(Math.max(1e-3, ...hop.map(Math.abs)));
    byId("pace").textContent = `${model.name}: ${pace}${late ? `, ${late} × late` : ""}`;
  });
  recorder.hear(byId("hear").checked);
  if (!recorder.live) showMessage("This browser can't run the microphone at the model's rate: you are recorded, and enhanced when you stop.");
}

async function stopSpeaking() {
  const { recorded } = recorder;
  await recorder.close();
  recorder = null;
  if (!recorded) throw new Error("Nothing was recorded: speak a little longer.");
  open("recording", () => openBuffer(recorded), "Unmute the microphone, or choose another one in the browser's settings.");
}

function showRecorder() {
  byId("speak").disabled = false;
  byId("speak").textContent = recorder ? "Stop" : "Speak";
  byId("speak").setAttribute("aria-pressed", recorder !== null);
  byId("live").hidden = !recorder;
  byId("choose").disabled = recorder !== null;
  for (const radio of byId("models").querySelectorAll("input")) radio.disabled = recorder !== null;
}

byId("speak").addEventListener("click", speak);
byId("hear").addEventListener("change", event => recorder?.hear(event.target.checked));

// ---- begin

document.querySelector(".scale").style.background = gradient;
makeModels();
showLimit();
showRecorder();
show();
