"""The card of an exported file: what it is, how good, how fast, and how to call it."""

from __future__ import annotations

import json
import platform
from math import prod
from pathlib import Path
from string import Template

from gtcrn.errors import UserError
from gtcrn.export.proof import TOLERANCE, Proof
from gtcrn.export.snippets import CALLS, FRAMING
from gtcrn.metrics import METRICS

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

$types, fixed shapes. The states are $zeros at first; the next states that a call gives are the states of the next call.

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

_MEANING = {
    "spectrum": "One frame: the real and imaginary parts of the FFT of the newest $n_fft samples under a square-root "
    "Hann window. The enhanced frame goes through the inverse FFT and the same window, and is added to the last ones "
    "where they overlap. `format=onnx_wave` has all of that inside.",
    "wave": "One hop: the newest $hop samples, in [-1, 1]. Frames, windows and overlap are inside.",
    "bands": "One frame's ERB bands, of magnitude, real and imaginary part of the spectrum, in codes: first those of "
    "the bands, then those of $rho times what the first leave of them. A code stands for (code - zero point) · scale. "
    "The output is the complex mask of the bands. What the Python program does around it in float, the device's "
    "processor does.",
}
_STEP = "`step` is one call, spectrum to spectrum; the Python program shows the frames around it."
_SHERPA = (
    "sherpa-onnx makes the frames itself. Its offline denoiser begins and ends a file with its mirror image, as "
    "`padding=reflect` does, and leaves out the last incomplete hop; its online denoiser begins with zeros and leaves "
    "out the delay: its output has the length of the input once it is flushed."
)


def text(
    file: str, format: str, metadata: dict[str, str], proof: Proof, size: int, runtime: str, audio: str, scores: str
) -> str:
    """In Markdown. file: its name. runtime: that proved it, with its version. size: bytes. audio: of the proof."""
    rate, hop, latency = (int(metadata[key]) for key in ("sample_rate", "hop_length", "latency"))
    values = _values(file, metadata)
    return _CARD.substitute(
        values,
        **{key: metadata[key] for key in ("system", "origin", "licence", "revision")},
        format=format,
        size=f"{size / 1000:,.0f} kB",
        hop_ms=f"{1e3 * hop / rate:g}",
        delay_ms=f"{1e3 * latency / rate:g}",
        total_ms=f"{1e3 * (hop + latency) / rate:g}",
        proof=_proof(metadata, proof, audio),
        median=f"{proof.median_ms:.2f}",
        p95=f"{proof.p95_ms:.2f}",
        runtime=runtime,
        machine=machine(),
        scores=scores if "quantize" not in metadata else f"Of the float model, not of these integers: {scores}",
        tensors=_tensors(metadata, values),
        meaning=Template(_MEANING[metadata["kind"]]).substitute(values),
        calls=_calls(format, metadata["kind"], values),
        **_integers(metadata),
    )


def _proof(metadata: dict[str, str], proof: Proof, audio: str) -> str:
    over = f"over {proof.frames} frames of {audio}"
    if "quantize" not in metadata:
        return f"at most {proof.error:.1e} from the PyTorch model (allowed: {TOLERANCE:g}), {over}"
    checked = f"; {metadata['check']}" if "check" in metadata else ""
    return f"output SNR {metadata['snr_db']} dB against the float model, {over}{checked}"


def integers_in_words(metadata: dict[str, str]) -> str:
    """How much of a file is of integers, and of which. metadata: the file's, which has some."""
    share = f"{100 * float(metadata['integer_macs']):.3g} % of the multiplications"
    return f"{share}; {WIDTHS[metadata['quantize']]}"


def _integers(metadata: dict[str, str]) -> dict[str, str]:
    """What is told of integers, and in their place of floats."""
    floats = {"quantize": "", "integers": "", "types": "float32", "zeros": "zeros"}
    if "quantize" not in metadata:
        return floats
    rows = {"integers": integers_in_words(metadata)}
    if left := json.loads(metadata.get("left_in_float", "{}")):
        rows["left in float"] = "; ".join(f"{kind}: {why}" for kind, why in left.items())
    if "operators" in metadata:
        counts = json.loads(metadata["operators"]).items()
        rows["operators to register"] = ", ".join(f"{kind} ({count})" for kind, count in counts)
    told = {
        "quantize": f" quantize={metadata['quantize']}",
        "integers": "".join(f"| {name} | {value} |\n" for name, value in rows.items()),
    }
    if metadata["kind"] == "bands":
        told |= {"types": CODES[metadata["quantize"]], "zeros": "zero points"}
    return floats | told


def _values(file: str, metadata: dict[str, str]) -> dict[str, object]:
    """What the programs need."""
    n_fft, hop = int(metadata["n_fft"]), int(metadata["hop_length"])
    dims = (1, hop) if metadata["kind"] == "wave" else (1, n_fft // 2 + 1, 1, 2)
    shapes = [shape for _, shape in json.loads(metadata["states"])]
    return {
        "file": file,
        "rate": metadata["sample_rate"],
        "n_fft": n_fft,
        "hop": hop,
        "latency": metadata["latency"],
        "input": "input",
        "output": "output",
        "dims": list(dims),
        "count": prod(dims),
        "shapes": shapes,
        "rho": metadata.get("residual_gain"),
        "mat": _mat(dims),
        "mats": ", ".join(f"ncnn::Mat({_mat(shape)})" for shape in shapes),
    }


def _mat(shape: tuple[int, ...] | list[int]) -> str:
    """As ncnn counts: the last axis first, no batch."""
    return ", ".join(map(str, reversed(shape[1:])))


def _tensors(metadata: dict[str, str], values: dict[str, object]) -> str:
    match metadata["kind"]:
        case "bands":
            first = "input", "output", f"[1, 1, {metadata['bands']}, 6], [1, 1, {metadata['bands']}, 2]", "bands, mask"
        case "spectrum":
            first = "input", "output", values["dims"], "spectrum of a frame"
        case "wave":
            first = "input", "output", values["dims"], "samples of a hop"
    rows = [(name, f"next_{name}", shape, "") for name, shape in json.loads(metadata["states"])]
    codes = json.loads(metadata.get("quantization", "{}"))
    return "\n".join(
        f"| `{name}` | `{output}` | {shape} | {'; '.join(filter(None, [meaning, _codes(codes, name, output)]))} |"
        for name, output, shape, meaning in (first, *rows)
    )


def _codes(quantization: dict[str, list], *names: str) -> str:
    """Scale and zero point of tensors, as far as they have any: a next state's are the state's."""
    return ", ".join(
        f"scale {scale:.6g}, zero point {zero}" for scale, zero in (quantization[n] for n in names if n in quantization)
    )


def _calls(format: str, kind: str, values: dict[str, object]) -> str:
    parts = []
    for language, program in CALLS["integers" if kind == "bands" else format].items():
        if language == "Python" and format != "sherpa_onnx":
            program += FRAMING["wave" if kind == "wave" else "spectrum"]
        parts.append(
            f"\n### {language}\n\n```{language.lower()}\n{Template(program).substitute(values).strip()}\n```\n"
        )
    if format == "sherpa_onnx":
        parts.append(f"\n{_SHERPA}\n")
    elif kind == "spectrum" and len(parts) > 1:
        parts.append(f"\n{_STEP}\n")
    return "".join(parts)


def scores_of(checkpoint: Path, published: str) -> str:
    """In Markdown: as published, or of the test of the run that the checkpoint is the best of, or how to get them."""
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
    return "Not known. These give them: `python run.py task=evaluate ckpt=… data=… data.root=…`."


def _table(means: dict[str, float]) -> str:
    """Of the means in a run's summary, `enhanced_<metric>` and, where there was a reference, `noisy_<metric>`."""
    rows = ["Means over the test split of the run that trained it.", "", "| | noisy | enhanced |", "|---|--:|--:|"]
    for name, metric in METRICS.items():
        if f"enhanced_{name}" in means:
            noisy, enhanced = (means.get(f"{kind}_{name}", float("nan")) for kind in ("noisy", "enhanced"))
            rows.append(f"| {metric.label} | {noisy:.{metric.digits}f} | {enhanced:.{metric.digits}f} |")
    return "\n".join(rows)


def machine() -> str:
    """The processor's name, as far as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
