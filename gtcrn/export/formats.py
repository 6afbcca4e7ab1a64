"""The formats in which a model leaves this framework, and what each can hold."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import NamedTuple

from gtcrn.errors import UserError
from gtcrn.export.graph import Graph, kinds
from gtcrn.export.writers.sherpa_onnx import PackedGraph
from gtcrn.models.enhancer import Enhancer
from gtcrn.quantization.network import BITS
from gtcrn.quantization.program import has_integer_form, require_integer_form
from gtcrn.runtime.facts import BANDS, SPECTRUM, WAVE

# spectra where the model has them, since an FFT outside is faster than the matrix product that a graph needs
SPECTRUM_FIRST = (SPECTRUM, WAVE)
DYNAMIC = "dynamic"  # of `quantize`: activations have the ranges of each frame, and need no calibration


class ExportFormat(NamedTuple):
    """A format, and the modules that write and run its files, by names that are imported when they are needed.

    writer: the module whose `write(graph, path, metadata)` makes the file; "" of a format without floats. runner:
    "module:class" of the `gtcrn.runtime.framing.Runner` that opens it. package: the runtime, as pip calls it; "" for
    the C compiler. suffix: after the model's name. kinds: of graph; the first that the model has is taken. recurrence:
    see `gtcrn.export.optimize`. quantizer: the module that makes integers of its files, as one of `quantize`. networks:
    the module whose `IntegerGraph` and `write` make a file of a network in integers alone, see `gtcrn.quantization`.
    """

    writer: str
    runner: str
    package: str
    suffix: str
    kinds: tuple[str, ...] = SPECTRUM_FIRST
    recurrence: str = "operator"
    graph: type[Graph] = Graph
    quantizer: str = ""
    quantize: tuple[str, ...] = ()
    networks: str = ""


_WRITERS, _DENOISER = "gtcrn.export.writers", "gtcrn.runtime.denoiser:Denoiser"
_ONNX_INTEGERS = {"quantizer": "gtcrn.export.quantizers.onnx", "quantize": ("int8", DYNAMIC)}
FORMATS = {
    "onnx": ExportFormat(f"{_WRITERS}.onnx", _DENOISER, "onnxruntime", ".onnx", (SPECTRUM,), **_ONNX_INTEGERS),
    "onnx_wave": ExportFormat(f"{_WRITERS}.onnx", _DENOISER, "onnxruntime", "_wave.onnx", (WAVE,), **_ONNX_INTEGERS),
    "sherpa_onnx": ExportFormat(
        f"{_WRITERS}.sherpa_onnx",
        "gtcrn.runtime.sherpa_onnx:SherpaDenoiser",
        "sherpa-onnx",
        "_sherpa.onnx",
        (SPECTRUM,),
        graph=PackedGraph,
    ),
    "litert": ExportFormat(
        f"{_WRITERS}.litert",
        _DENOISER,
        "ai-edge-litert",
        ".tflite",
        recurrence="unrolled",
        quantizer="gtcrn.export.quantizers.litert",
        quantize=(*BITS, DYNAMIC),
        networks=f"{_WRITERS}.flatbuffer",
    ),
    "ncnn": ExportFormat(f"{_WRITERS}.ncnn", "gtcrn.runtime.ncnn:NcnnDenoiser", "ncnn", "_ncnn"),
    "pt2": ExportFormat(f"{_WRITERS}.pt2", "gtcrn.runtime.pt2:Pt2Denoiser", "torch", ".pt2"),
    "c": ExportFormat(
        "",
        "gtcrn.runtime.c_code:CDenoiser",
        "",
        "_c",
        kinds=(),
        quantize=("int8",),
        networks="gtcrn.export.c.writer",
    ),
}


def register(name: str, format: ExportFormat) -> None:
    """Add a format of one's own, as one of `format=`. Raises UserError if its name or its suffix is taken."""
    for other, known in FORMATS.items():
        taken = other == name or known.suffix == format.suffix
        if taken and (other, known) != (name, format):  # the module that registers it may be imported twice
            raise UserError(f"format={name}: its name or its suffix {format.suffix} is that of format={other}")
    FORMATS[name] = format


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
        if chosen.networks and quantize in BITS and (has_integer_form(enhancer.core) or not chosen.kinds):
            require_integer_form(enhancer.core)
            return BANDS
    if not chosen.kinds:
        raise UserError(f"format={name}: is of integers alone; add quantize={chosen.quantize[0]}")
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


def load_writer(name: str) -> ModuleType:
    """Return the module that writes files of a format."""
    return importlib.import_module(FORMATS[name].writer)


def load_network_writer(name: str) -> ModuleType:
    """Return the module that writes networks in integers alone in a format."""
    return importlib.import_module(FORMATS[name].networks)


def load_quantizer(name: str) -> ModuleType:
    """Return the module that makes integers of the files of a format."""
    return importlib.import_module(FORMATS[name].quantizer)
