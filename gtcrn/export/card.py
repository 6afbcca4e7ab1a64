"""The card of an exported file: what it is, how good, how fast, and how to call it."""

from __future__ import annotations

import json
import platform
from math import prod
from pathlib import Path
from string import Template

from gtcrn.dsp.window import WINDOWS
from gtcrn.errors import UserError
from gtcrn.export.proof import TOLERANCE, Proof
from gtcrn.export.snippets import CALLS, FRAMING, REGISTERED_PYTHON
from gtcrn.metrics import METRICS
from gtcrn.runtime.facts import BANDS, SPECTRUM, WAVE, Integers, ModelFacts

SUFFIX = ".MODEL_CARD.md"  # after the whole name of the file, since other formats may lie beside it

_CARD = Template("""# $system: $file

Enhances speech, $rate Hz, one channel, $hop samples ($hop_ms ms) at a time.

| | |
|---|---|
| weights | $origin |
| licence of the weights | $licence |
| size | $size |
| made by | `task=export format=$format$quantize`, revision $revision |
| proof | $proof |
$integers| latency | $total_ms ms: $hop_ms ms until a hop is complete, $delay_ms ms until nothing more overlaps it |
| CPU time for a hop | median $median ms, 95 % below $p95 ms; $runtime from Python, one thread, $machine |

## Scores

$scores

## Inputs and outputs

$types, fixed shapes.$states

| input | output | shape | |
|---|---|---|---|
$tensors

$meaning

## How to call it
$calls""")

# by how a file was quantized; weights always have 8 bits
WIDTHS = {
    "int8": "8-bit activations and weights",
    "int16x8": "16-bit activations, 8-bit weights",
    "mixed": "8-bit weights, activations of 8 bits and, where these are too few, 16",
    "dynamic": "8-bit weights, activations brought to 8 bits frame by frame",
}

CODES = {"int8": "int8", "int16x8": "int16", "mixed": "int8 or int16, as each tensor of the file says"}

WHOLE = ("sherpa_onnx", "c")  # formats whose Python program has the frames around a step

_STATES = " The states are {} at first; the next states that a call gives are the states of the next call."
_MEANING = {
    "spectrum": "One frame: the real and imaginary parts of the FFT of the newest $n_fft samples under $window. "
    "The enhanced frame goes through the inverse FFT and the same window, divided by the sum of the squares of all "
    "windows that overlap, and is added to the last frames there. `format=onnx_wave` has all of that inside.",
    "wave": "One hop: the newest $hop samples, in [-1, 1]. Frames, windows and overlap are inside.",
    "bands": "One frame's ERB bands, of magnitude, real and imaginary part of the spectrum, in codes: first those of "
    "the bands, then those of $rho times what the first leave of them. A code stands for (code - zero point) · scale. "
    "The output is the complex mask of the bands. What the Python program does around it in float, the device's "
    "processor does.",
}
_WINDOWS = {"hann_sqrt": "the square root of a periodic Hann window", "hann": "a periodic Hann window"}
_STEP = "`step` is one call, spectrum to spectrum; the Python program shows the frames around it."
_SHERPA = (
    "sherpa-onnx makes the frames itself. Its offline denoiser begins and ends a file with its mirror image, as "
    "`padding=reflect` does, and leaves out the last incomplete hop; its online denoiser begins with zeros and leaves "
    "out the delay: its output has the length of the input once it is flushed."
)


def text(
    file: str,
    format: str,
    runner: str,
    facts: ModelFacts,
    proof: Proof,
    size: int,
    runtime: str,
    audio: str,
    scores: str,
) -> str:
    """Return the card of a file in Markdown.

    file: its name. runner: "module:class" that opens it, for a format that has no program here. runtime: the one that
    proved it, with its version. size: bytes. audio: what it was proved with. scores: as `scores_of` gives them.
    """
    signal = facts.signal
    values, words = _values(file, facts), _integers(facts)
    return _CARD.substitute(
        values,
        **{key: getattr(facts, key) for key in ("system", "origin", "licence", "revision")},
        format=format,
        size=f"{size / 1000:,.0f} kB",
        hop_ms=f"{signal.hop_ms:g}",
        delay_ms=f"{signal.latency_ms:g}",
        total_ms=f"{signal.total_ms:g}",
        proof=_proof(facts.integers, proof, audio),
        median=f"{proof.median_ms:.2f}",
        p95=f"{proof.p95_ms:.2f}",
        runtime=runtime,
        machine=machine(),
        scores=scores if facts.integers is None else f"Of the float model, not of these integers: {scores}",
        states=_STATES.format(words["zeros"]) if facts.states else "",
        tensors=_tensors(facts, values),
        meaning=Template(_MEANING[signal.kind]).substitute(values),
        calls=_calls(format, runner, signal.kind, values),
        **words,
    )


def _proof(integers: Integers | None, proof: Proof, audio: str) -> str:
    over = f"over {proof.frames} frames of {audio}"
    if integers is None:
        return f"at most {proof.error:.1e} from the PyTorch model (allowed: {TOLERANCE:g}), {over}"
    checked = f"; {integers.check}" if integers.check else ""
    return f"output SNR {integers.snr:.1f} dB against the float model, {over}{checked}"


def integers_in_words(integers: Integers) -> str:
    """Return how much of a file is computed in integers, and in which."""
    return f"{100 * integers.share:.3g} % of the multiplications; {WIDTHS[integers.quantize]}"


def _integers(facts: ModelFacts) -> dict[str, str]:
    """Return the card's words on integers, or those that stand in their place for floats."""
    integers, words = facts.integers, {"quantize": "", "integers": "", "types": "float32", "zeros": "zeros"}
    if integers is None:
        return words
    rows = {"integers": integers_in_words(integers)}
    if integers.left:
        rows["left in float"] = "; ".join(f"{kind}: {why}" for kind, why in integers.left.items())
    if integers.operators:
        counts = integers.operators.items()
        rows["operators to register"] = ", ".join(f"{kind} ({count})" for kind, count in counts)
    words["quantize"] = f" quantize={integers.quantize}"
    words["integers"] = "".join(f"| {name} | {value} |\n" for name, value in rows.items())
    if facts.signal.kind == BANDS:
        words |= {"types": CODES[integers.quantize], "zeros": "zero points"}
    return words


def _values(file: str, facts: ModelFacts) -> dict[str, object]:
    """Return the values that the templates of the programs have places for."""
    signal, shapes = facts.signal, list(facts.states.values())
    n_fft, hop = signal.n_fft, signal.hop_length
    dims = (1, hop) if signal.kind == WAVE else (1, n_fft // 2 + 1, 1, 2)
    return {
        "file": file,
        "function": file.removesuffix("_c"),  # as the functions of a C file are called
        "rate": signal.sample_rate,
        "n_fft": n_fft,
        "hop": hop,
        "window": _WINDOWS.get(signal.window),
        "power": WINDOWS.get(signal.window),
        "latency": signal.latency,
        "input": "input",
        "output": "output",
        "dims": list(dims),
        "count": prod(dims),
        "shapes": shapes,
        "rho": facts.integers.codes.residual_gain if signal.kind == BANDS else None,
        "mat": _mat(dims),
        "mats": ", ".join(f"ncnn::Mat({_mat(shape)})" for shape in shapes),
    }


def _mat(shape: tuple[int, ...] | list[int]) -> str:
    """Return a shape as ncnn has it: the last axis first, no batch."""
    return ", ".join(map(str, reversed(shape[1:])))


def _tensors(facts: ModelFacts, values: dict[str, object]) -> str:
    shape, meaning, codes = values["dims"], "samples of a hop", {}
    if facts.signal.kind == SPECTRUM:
        meaning = "spectrum of a frame"
    elif facts.signal.kind == BANDS:
        bands, codes = facts.integers.bands, facts.integers.codes.quantization
        shape, meaning = f"[1, 1, {bands}, 6], [1, 1, {bands}, 2]", "bands, mask"
    first = "input", "output", shape, meaning
    rows = [(name, f"next_{name}", shape, "") for name, shape in facts.states.items()]
    return "\n".join(
        f"| `{name}` | `{output}` | {shape} | {'; '.join(filter(None, [meaning, _codes(codes, name, output)]))} |"
        for name, output, shape, meaning in (first, *rows)
    )


def _codes(quantization: dict[str, tuple[float, int]], *names: str) -> str:
    """Return scale and zero point of tensors, as far as they have any: a next state's are the state's."""
    return ", ".join(
        f"scale {scale:.6g}, zero point {zero}" for scale, zero in (quantization[n] for n in names if n in quantization)
    )


def _calls(format: str, runner: str, kind: str, values: dict[str, object]) -> str:
    module, _, name = runner.partition(":")
    values = values | {"module": module, "runner": name}
    parts = []
    for language, program in CALLS.get("integers" if kind == BANDS else format, {"Python": REGISTERED_PYTHON}).items():
        if language == "Python" and format in CALLS and format not in WHOLE:
            program += FRAMING[WAVE if kind == WAVE else SPECTRUM]
        parts.append(
            f"\n### {language}\n\n```{language.lower()}\n{Template(program).substitute(values).strip()}\n```\n"
        )
    if format == "sherpa_onnx":
        parts.append(f"\n{_SHERPA}\n")
    elif kind == SPECTRUM and len(parts) > 1:
        parts.append(f"\n{_STEP}\n")
    return "".join(parts)


def scores_of(checkpoint: Path, published: str) -> str:
    """Return the scores of a checkpoint in Markdown: as published, or of the test of the run that it is the best of, or
    how to get them."""
    if published:
        return f"{published[0].upper()}{published[1:]}."
    summary = checkpoint.resolve().parent.parent / "summary.json"
    if checkpoint.name == "best.ckpt" and summary.is_file():
        try:
            means = json.loads(summary.read_text()).get("test")
        except ValueError as error:
            raise UserError(f"{summary}: damaged: {error}") from error
        if means:
            return _table(means)
    return "Not known. These give them: `gtcrn task=evaluate ckpt=… data=… data.root=…`."


def _table(means: dict[str, float]) -> str:
    """Return a table of the means in a run's summary, `enhanced_<metric>` and, where there was a reference,
    `noisy_<metric>`."""
    rows = ["Means over the test split of the run that trained it.", "", "| | noisy | enhanced |", "|---|--:|--:|"]
    for name, metric in METRICS.items():
        if f"enhanced_{name}" in means:
            noisy, enhanced = (means.get(f"{kind}_{name}", float("nan")) for kind in ("noisy", "enhanced"))
            rows.append(f"| {metric.label} | {noisy:.{metric.digits}f} | {enhanced:.{metric.digits}f} |")
    return "\n".join(rows)


def machine() -> str:
    """Return the processor's name, as far as the system states it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
