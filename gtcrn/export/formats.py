"""The formats in which a model leaves this framework, and an export: written, proved, described, moved into place."""

from __future__ import annotations

import importlib
import logging
import multiprocessing
import os
import shutil
import tempfile
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from gtcrn.errors import UserError
from gtcrn.export import card, proof
from gtcrn.export.framing import Runner
from gtcrn.export.graph import Graph, kinds
from gtcrn.export.integer.calibration import bands
from gtcrn.export.integer.check import check
from gtcrn.export.integer.network import BITS, Network
from gtcrn.export.integer.program import lower
from gtcrn.export.lean import lean
from gtcrn.export.metadata import Weights, describe
from gtcrn.export.sherpa_onnx import PackedGraph
from gtcrn.models.enhancer import Enhancer

log = logging.getLogger(__name__)


class Format(NamedTuple):
    """writer: the module of gtcrn.export whose `write` makes the file. runner: module and class of what runs it.
    package: the runtime. suffix: after the model's name. kinds: of graph, the first that the model has is taken.
    recurrence: see `gtcrn.export.lean`.
    """

    writer: str
    runner: str
    package: str
    suffix: str
    kinds: tuple[str, ...]
    recurrence: str = "operator"
    graph: type[Graph] = Graph


# spectra where the model has them, since an FFT outside is faster than the matrix product that a graph needs
_SPECTRUM_FIRST = ("spectrum", "wave")
FORMATS = {
    "onnx": Format("onnx", "runtime.Denoiser", "onnxruntime", ".onnx", ("spectrum",)),
    "onnx_wave": Format("onnx", "runtime.Denoiser", "onnxruntime", "_wave.onnx", ("wave",)),
    "sherpa_onnx": Format(
        "sherpa_onnx", "sherpa_onnx.Runner", "sherpa-onnx", "_sherpa.onnx", ("spectrum",), graph=PackedGraph
    ),
    "litert": Format("litert", "runtime.Denoiser", "ai-edge-litert", ".tflite", _SPECTRUM_FIRST, "unrolled"),
    "ncnn": Format("ncnn", "ncnn.Runner", "ncnn", "_ncnn", _SPECTRUM_FIRST),
    "pt2": Format("pt2", "pt2.Runner", "torch", ".pt2", _SPECTRUM_FIRST),
}

INTEGERS = {"litert": "integer.flatbuffer"}  # what writes networks in integers


class Exported(NamedTuple):
    """path: of the file, or of the folder of a format that has several. size: bytes. metadata: what it says of itself.
    card: the file that describes it.
    """

    path: Path
    size: int
    metadata: dict[str, str]
    proof: proof.Proof
    card: Path


def choose_kind(enhancer: Enhancer, name: str, quantize: str | None = None) -> str:
    """Of the graph that a format holds.

    quantize: a key of `BITS` for integers. Raises UserError for a format or integers that there aren't or that are
    not for this model, or if the model looks ahead.
    """
    if name not in FORMATS:
        raise UserError(f"format={name}: must be one of {', '.join(FORMATS)}")
    enhancer.require_causal()
    if quantize is not None:
        if quantize not in BITS:
            raise UserError(f"quantize={quantize}: must be one of {', '.join(BITS)}, or null for 32-bit floats")
        if name not in INTEGERS:
            raise UserError(f"quantize={quantize}: is for format={', '.join(INTEGERS)}; format={name} has floats alone")
        lower(enhancer.core)
        return "bands"
    fitting = [kind for kind in FORMATS[name].kinds if kind in kinds(enhancer)]
    if not fitting:
        raise UserError(
            f"format={name}: is for models of spectra, and {type(enhancer.core).__name__} takes samples; "
            "use format=onnx_wave"
        )
    return fitting[0]


def export(
    enhancer: Enhancer,
    name: str,
    folder: Path,
    stem: str,
    weights: Weights,
    scores: str,
    recording: proof.Recording,
    network: Network | None = None,
    strict: bool = False,
) -> Exported:
    """Writes a model in a format, proves it with a recording, and puts it into the folder beside its card, or nothing.

    stem: the file's name before the suffix of its format. scores: for the card. network: the model's in integers, which
    is written in place of it. strict: not one of its multiplications may be left in float. Raises UserError as
    `choose_kind`, if the folder can't be written to, or if the proof fails.
    """
    choose_kind(enhancer, name, network and network.name)
    chosen = FORMATS[name]
    file = f"{stem}_{network.name}{chosen.suffix}" if network else stem + chosen.suffix
    target, described = folder / file, folder / (file + card.SUFFIX)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # not in the system's own place for such: only within a file system is a move all or nothing
        with tempfile.TemporaryDirectory(prefix=f".{file}.", suffix=".partial", dir=folder) as partial:
            path = Path(partial) / file
            if network:
                metadata, proved = _write_integers(path, name, network, enhancer, weights, recording, strict)
            else:
                metadata, proved = _write_floats(path, name, enhancer, weights, recording)
            log.info("3/3 describing it …")
            size = _size(path)
            runtime = f"{chosen.package} {version(chosen.package)}"
            words = card.text(file, name, metadata, proved, size, runtime, recording.name, scores)
            (Path(partial) / described.name).write_text(words)
            os.replace(Path(partial) / described.name, described)
            if target.is_dir():
                shutil.rmtree(target)
            os.replace(path, target)
    except OSError as error:
        raise UserError(f"output={folder}: can't be written to ({error.strerror or error}); name another") from error
    return Exported(target, size, metadata, proved, described)


def _write_floats(
    path: Path, name: str, enhancer: Enhancer, weights: Weights, recording: proof.Recording
) -> tuple[dict[str, str], proof.Proof]:
    """What the file says of itself, and its proof."""
    chosen = FORMATS[name]
    log.info("1/3 writing %s, which takes up to a minute …", path.name)
    graph = chosen.graph(lean(enhancer, chosen.recurrence), choose_kind(enhancer, name))
    metadata = describe(graph, enhancer, weights)
    importlib.import_module(f"gtcrn.export.{chosen.writer}").write(graph, path, metadata)
    return metadata, _prove(path, name, enhancer, recording)


def _write_integers(
    path: Path,
    name: str,
    network: Network,
    enhancer: Enhancer,
    weights: Weights,
    recording: proof.Recording,
    strict: bool,
) -> tuple[dict[str, str], proof.Proof]:
    """As `_write_floats`; every operator is compared with the simulation, and the metadata tell how that went."""
    try:
        writer = importlib.import_module(f"gtcrn.export.{INTEGERS[name]}")
    except ImportError as error:
        raise UserError(f"{path.name}: writing it needs {error.name}: pip install -e '.[device]'") from error
    log.info("1/3 writing %s …", path.name)
    graph = writer.Graph(network, enhancer.core)
    metadata = describe(graph, enhancer, weights)
    share = float(metadata["integer_macs"])
    if strict and share < 1:
        raise UserError(f"strict=true: nothing was written, since {100 * (1 - share):.1f} % is left in float")
    writer.write(graph, path, metadata)
    proved = _prove(path, name, enhancer, recording, exact=False)
    try:
        agreement = check(network, graph.written, bands(enhancer, recording.wave))
    except UserError as error:
        raise UserError(f"quantize={network.name}: nothing was written, since {error}") from error
    metadata |= {"snr_db": f"{proved.snr:.1f}", "check": str(agreement)}
    writer.write(graph, path, metadata)
    return metadata, proved


def load_runner(path: Path, name: str) -> Runner:
    """A stream through an exported file, in the runtime of its format."""
    module, _, runner = FORMATS[name].runner.partition(".")
    return getattr(importlib.import_module(f"gtcrn.export.{module}"), runner)(path)


def _prove(path: Path, name: str, enhancer: Enhancer, recording: proof.Recording, exact: bool = True) -> proof.Proof:
    """In a process of its own: runtimes in C++ may end theirs at a file that they don't like."""
    log.info("2/3 running it in %s over %s …", FORMATS[name].package, recording.name)
    hops = proof.whole_hops(recording.wave, enhancer.hop_length)
    try:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
            heard = process.submit(_listen, path, name, hops).result()
        return proof.prove(heard, enhancer, hops, exact)
    except UserError as error:
        raise UserError(f"format={name}: nothing was written, since the file is wrong: {error}") from error
    except BrokenProcessPool as error:
        raise UserError(f"format={name}: nothing was written, since {FORMATS[name].package} crashed on it") from error


def _listen(path: Path, name: str, hops: np.ndarray) -> proof.Heard:
    torch.set_num_threads(1)
    return proof.listen(load_runner(path, name), hops)


def _size(path: Path) -> int:
    files = path.iterdir() if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files)
