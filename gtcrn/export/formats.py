"""The formats in which a model leaves this framework, and what each can hold."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import NamedTuple

from gtcrn.errors import UserError
from gtcrn.export.graph import Graph, kinds
from gtcrn.export.writers.sherpa_onnx import PackedGraph
from gtcrn.models.enhancer import Enhancer
from gtcrn.quantization.network import BITS
from gtcrn.quantization.program import has_integer_form, require_integer_form
from gtcrn.runtime.facts import BANDS, SPECTRUM, WAVE
from gtcrn.runtime.framing import Runner

DYNAMIC = "dynamic"  # of `quantize`: activations have the ranges of each frame, and need no calibration


class ExportFormat(NamedTuple):
    """A format, and the modules that write and run its files.

    writer: the module of gtcrn.export.writers whose `write` makes the file. runner: module and class in gtcrn.runtime.
    package: the runtime. suffix: after the model's name. kinds: of graph; the first that the model has is taken.
    recurrence: see `gtcrn.export.optimize`. quantizer: the module of gtcrn.export.quantizers that makes integers of
    its files, as one of `quantize`.
    """

    writer: str
    runner: str
    package: str
    suffix: str
    kinds: tuple[str, ...]
    recurrence: str = "operator"
    graph: type[Graph] = Graph
    quantizer: str = ""
    quantize: tuple[str, ...] = ()


# spectra where the model has them, since an FFT outside is faster than the matrix product that a graph needs
_SPECTRUM_FIRST = (SPECTRUM, WAVE)
_ONNX_INTEGERS = {"quantizer": "onnx", "quantize": ("int8", DYNAMIC)}
FORMATS = {
    "onnx": ExportFormat("onnx", "denoiser.Denoiser", "onnxruntime", ".onnx", (SPECTRUM,), **_ONNX_INTEGERS),
    "onnx_wave": ExportFormat("onnx", "denoiser.Denoiser", "onnxruntime", "_wave.onnx", (WAVE,), **_ONNX_INTEGERS),
    "sherpa_onnx": ExportFormat(
        "sherpa_onnx", "sherpa_onnx.SherpaDenoiser", "sherpa-onnx", "_sherpa.onnx", (SPECTRUM,), graph=PackedGraph
    ),
    "litert": ExportFormat(
        "litert",
        "denoiser.Denoiser",
        "ai-edge-litert",
        ".tflite",
        _SPECTRUM_FIRST,
        "unrolled",
        quantizer="litert",
        quantize=(*BITS, DYNAMIC),
    ),
    "ncnn": ExportFormat("ncnn", "ncnn.NcnnDenoiser", "ncnn", "_ncnn", _SPECTRUM_FIRST),
    "pt2": ExportFormat("pt2", "pt2.Pt2Denoiser", "torch", ".pt2", _SPECTRUM_FIRST),
}


def choose_kind(enhancer: Enhancer, name: str, quantize: str | None = None) -> str:
    """Return the kind of graph that a format holds; `BANDS` for integers alone, see `gtcrn.quantization`.

    quantize: None for floats. Raises UserError for an unknown format or unknown integers, for those that are not for
    this model, and if the model looks ahead.
    """
    if name not in FORMATS:
        raise UserError(f"format={name}: must be one of {', '.join(FORMATS)}")
    enhancer.require_causal()
    chosen = FORMATS[name]
    if quantize is not None:
        _require_quantize(name, quantize)
        if name == "litert" and quantize in BITS and has_integer_form(enhancer.core):
            require_integer_form(enhancer.core)
            return BANDS
    fitting = [kind for kind in chosen.kinds if kind in kinds(enhancer)]
    if not fitting:
        raise UserError(
            f"format={name}: is for models of spectra, and {type(enhancer.core).__name__} takes samples; "
            "use format=onnx_wave"
        )
    return fitting[0]


def _require_quantize(name: str, quantize: str) -> None:
    by_format = {other: format.quantize for other, format in FORMATS.items() if format.quantize}
    known = list(dict.fromkeys(one for choices in by_format.values() for one in choices))
    if quantize not in known:
        raise UserError(f"quantize={quantize}: must be one of {', '.join(known)}, or null for 32-bit floats")
    if name not in by_format:
        raise UserError(
            f"quantize={quantize}: format={name} has floats alone; use one of format={', '.join(by_format)}"
        )
    if quantize not in by_format[name]:
        able = [other for other, choices in by_format.items() if quantize in choices]
        raise UserError(
            f"quantize={quantize}: format={name} has {', '.join(by_format[name])}; {quantize} is for format="
            f"{', '.join(able)}"
        )


def file_name(stem: str, name: str, quantize: str | None) -> str:
    """Return the name of the file, in a format, of the model that `stem` names.

    Two different models, formats or kinds of numbers never have the same name. So where the stem itself ends as the
    name of another file does, as that of model=micro_int8 ends in `_int8`, a file of floats says that it is one.
    """
    endings = [*(choice for format in FORMATS.values() for choice in format.quantize), "float"]
    endings += [format.suffix.partition(".")[0].strip("_") for format in FORMATS.values() if format.suffix[0] == "_"]
    numbers = quantize or ("float" if stem.endswith(tuple(f"_{ending}" for ending in endings)) else None)
    return "_".join(filter(None, (stem, numbers))) + FORMATS[name].suffix


def load_runner(path: Path, name: str) -> Runner:
    """Return a stream through an exported file, in the runtime of its format."""
    module, _, runner = FORMATS[name].runner.partition(".")
    return getattr(importlib.import_module(f"gtcrn.runtime.{module}"), runner)(path)


def load_writer(name: str):
    """Return the module that writes files of a format."""
    return importlib.import_module(f"gtcrn.export.writers.{FORMATS[name].writer}")


def load_quantizer(name: str):
    """Return the module that makes integers of the files of a format."""
    return importlib.import_module(f"gtcrn.export.quantizers.{FORMATS[name].quantizer}")
