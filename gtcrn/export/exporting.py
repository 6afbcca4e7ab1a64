"""An export: written, proved, described, moved into place."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from gtcrn.errors import UserError
from gtcrn.export import card, proof
from gtcrn.export.check import check
from gtcrn.export.formats import FORMATS, file_name, load_quantizer, load_runner, load_writer
from gtcrn.export.metadata import Weights, describe
from gtcrn.export.optimize import lean
from gtcrn.models.enhancer import Enhancer
from gtcrn.quantization.calibration import network_input
from gtcrn.quantization.network import Network
from gtcrn.workers import begin

log = logging.getLogger(__name__)


class Exported(NamedTuple):
    """path: of the file, or of the folder of a format that has several. size: bytes. metadata: what it says of itself.
    card: the file that describes it.
    """

    path: Path
    size: int
    metadata: dict[str, str]
    proof: proof.Proof
    card: Path


class Calibrated(NamedTuple):
    """Integers that the format's quantizer makes of a float file. name: one of the format's `quantize`. waves: (N,)
    float32 each, by which ranges are chosen. source: the float file, if it has been exported before.
    """

    name: str
    waves: Sequence[np.ndarray] = ()
    source: Path | None = None


@dataclass(frozen=True)
class Export:
    """An export that is asked for.

    kind: of its graph, as `gtcrn.export.formats.choose_kind` gives it for the format and the integers. stem: the
    model's name, with which the file's begins. recording: of the proof. scores: for the card. integers: the model's
    network in them, or how to get some; None for floats. strict: nothing may be left in float.
    """

    enhancer: Enhancer
    format: str
    kind: str
    stem: str
    weights: Weights
    recording: proof.Recording
    scores: str = ""
    integers: Network | Calibrated | None = None
    strict: bool = False

    def write(self, folder: Path) -> Exported:
        """Write the file, prove it, and put it into the folder beside its card, or write nothing.

        Raises UserError if the folder can't be written to, or if the proof fails.
        """
        chosen = FORMATS[self.format]
        file = file_name(self.stem, self.format, self.integers and self.integers.name)
        target, described = folder / file, folder / (file + card.SUFFIX)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # not in the system's own place for such: only within a file system is a move all or nothing
            with tempfile.TemporaryDirectory(prefix=f".{file}.", suffix=".partial", dir=folder) as partial:
                path = Path(partial) / file
                write = {Network: self._network, Calibrated: self._calibrated}.get(type(self.integers), self._floats)
                metadata, proved = write(path)
                log.info("3/3 describing it …")
                size = _size(path)
                runtime = f"{chosen.package} {version(chosen.package)}"
                words = card.text(file, self.format, metadata, proved, size, runtime, self.recording.name, self.scores)
                (Path(partial) / described.name).write_text(words)
                os.replace(Path(partial) / described.name, described)
                if target.is_dir():
                    shutil.rmtree(target)
                os.replace(path, target)
        except OSError as error:
            raise UserError(
                f"output={folder}: can't be written to ({error.strerror or error}); name another"
            ) from error
        return Exported(target, size, metadata, proved, described)

    # each writes a file into path, and gives what it says of itself, and its proof

    def _floats(self, path: Path) -> tuple[dict[str, str], proof.Proof]:
        log.info("1/3 writing %s, which takes up to a minute …", path.name)
        graph = self._graph()
        metadata = describe(graph, self.enhancer, self.weights)
        load_writer(self.format).write(graph, path, metadata)
        return metadata, self._prove(path)

    def _calibrated(self, path: Path) -> tuple[dict[str, str], proof.Proof]:
        log.info("1/3 writing %s, which takes up to a minute …", path.name)
        writer, quantizer, graph = load_writer(self.format), load_quantizer(self.format), self._graph()
        metadata = describe(graph, self.enhancer, self.weights)
        source = self.integers.source
        if source is None:
            source = path.with_name(f"float_{path.name}")
            writer.write(graph, source, metadata)
        quantizer.quantize(source, path, self.integers.name, self.integers.waves)
        work = quantizer.work(path)
        if self.strict and work.left:
            raise UserError(f"strict=true: nothing was written, since {in_float(work.share, work.left)}")
        proved = self._prove(path, exact=False)
        metadata |= {
            "quantize": self.integers.name,
            "integer_macs": f"{work.share:g}",
            "left_in_float": json.dumps(work.left),
            "snr_db": f"{proved.snr:.1f}",
        }
        writer.write_metadata(path, metadata)
        return metadata, proved

    def _graph(self):
        chosen = FORMATS[self.format]
        return chosen.graph(lean(self.enhancer, chosen.recurrence), self.kind)

    def _network(self, path: Path) -> tuple[dict[str, str], proof.Proof]:
        """Every operator is compared with the simulation, and the metadata tell how that went."""
        network, enhancer = self.integers, self.enhancer
        try:
            from gtcrn.export.writers import flatbuffer
        except ImportError as error:
            raise UserError(f"{path.name}: writing it needs {error.name}: pip install -e '.[device]'") from error
        log.info("1/3 writing %s …", path.name)
        graph = flatbuffer.IntegerGraph(network, enhancer.core)
        metadata = describe(graph, enhancer, self.weights)
        flatbuffer.write(graph, path, metadata)
        proved = self._prove(path, exact=False)
        try:
            agreement = check(network, graph.written, network_input(enhancer, self.recording.wave))
        except UserError as error:
            raise UserError(f"quantize={network.name}: nothing was written, since {error}") from error
        share = load_quantizer(self.format).work(path).share
        metadata |= {"integer_macs": f"{share:g}", "snr_db": f"{proved.snr:.1f}", "check": str(agreement)}
        flatbuffer.write(graph, path, metadata)
        return metadata, proved

    def _prove(self, path: Path, exact: bool = True) -> proof.Proof:
        """In a process of its own: runtimes in C++ may end theirs at a file that they don't like."""
        package = FORMATS[self.format].package
        log.info("2/3 running it in %s over %s …", package, self.recording.name)
        hops = proof.whole_hops(self.recording.wave, self.enhancer.hop_length)
        try:
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), begin) as process:
                heard = process.submit(_listen, path, self.format, hops).result()
            return proof.prove(heard, self.enhancer, hops, exact)
        except UserError as error:
            raise UserError(f"format={self.format}: nothing was written, since the file is wrong: {error}") from error
        except BrokenProcessPool as error:
            raise UserError(f"format={self.format}: nothing was written, since {package} crashed on it") from error


def in_float(share: float, left: Mapping[str, str]) -> str:
    """What was left there, in words. share: of integers. left: kinds of operators, and why."""
    reasons = "; ".join(f"{kind}: {why}" for kind, why in left.items())
    return f"{100 * (1 - share):.3g} % of the multiplications are left in float ({reasons})"


def _listen(path: Path, name: str, hops: np.ndarray) -> proof.Heard:
    torch.set_num_threads(1)
    return proof.listen(load_runner(path, name), hops)


def _size(path: Path) -> int:
    files = path.iterdir() if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files)
