"""An export: the file is written, proved and described, and moved into its folder when all is well."""

from __future__ import annotations

import logging
import multiprocessing
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from pkgutil import resolve_name
from typing import NamedTuple

import numpy as np
import torch

from gtcrn.errors import UserError
from gtcrn.export import card, proof
from gtcrn.export.c.budget import Budget
from gtcrn.export.formats import FORMATS, file_name, load_network_writer, load_quantizer, load_writer
from gtcrn.export.metadata import Weights, describe
from gtcrn.export.optimize import optimized
from gtcrn.models.enhancer import Enhancer
from gtcrn.quantization.calibration import network_input
from gtcrn.quantization.network import Network
from gtcrn.runtime.c_code import compiler, compiler_name
from gtcrn.runtime.facts import Integers, ModelFacts
from gtcrn.workers import begin

log = logging.getLogger(__name__)


class Exported(NamedTuple):
    """An export that is done.

    path: of the file, or of the folder of a format that has several. size: bytes. facts: what it says of itself.
    card: the file that describes it.
    """

    path: Path
    size: int
    facts: ModelFacts
    proof: proof.Proof
    card: Path


class Calibrated(NamedTuple):
    """Integers that the format's quantizer makes of a float file.

    name: one of the format's `quantize`. waves: (N,) float32 each, by which ranges are chosen. source: the float file,
    if it has been exported before.
    """

    name: str
    waves: Sequence[np.ndarray] = ()
    source: Path | None = None


@dataclass(frozen=True)
class Export:
    """An export that is asked for.

    kind: of its graph, as `gtcrn.export.formats.choose_kind` gives it for the format and the integers. stem: the
    model's name, with which the file's begins. recording: of the proof. scores: for the card. integers: the model's
    network in them, or how to get some; None for floats. strict: nothing may be left in float. budget: of a C file.
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
    budget: Budget | None = None

    def write(self, folder: Path, file: str | None = None) -> Exported:
        """Write the file, prove it, and put it into the folder beside its card, or write nothing.

        file: its name; by default `file_name` makes one of the model's name. Raises UserError if the folder can't be
        written to, or if the proof fails.
        """
        chosen = FORMATS[self.format]
        file = file or file_name(self.stem, self.format, self.integers and self.integers.name)
        target, described = folder / file, folder / (file + card.SUFFIX)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # not in the system's temporary folder: only within one file system is a move all or nothing
            with tempfile.TemporaryDirectory(prefix=f".{file}.", suffix=".partial", dir=folder) as partial:
                path = Path(partial) / file
                write = {Network: self._network, Calibrated: self._calibrated}.get(type(self.integers), self._floats)
                facts, proved = write(path)
                if self.budget:
                    log.info("    %s", self.budget.require(path, self.recording.wave))
                log.info("3/3 describing it …")
                size = _size(path)
                runtime = f"{chosen.package} {version(chosen.package)}" if chosen.package else compiler_name()
                words = card.text(
                    file, self.format, chosen.runner, facts, proved, size, runtime, self.recording.name, self.scores
                )
                (Path(partial) / described.name).write_text(words)
                os.replace(Path(partial) / described.name, described)
                if target.is_dir():
                    shutil.rmtree(target)
                os.replace(path, target)
        except OSError as error:
            raise UserError(
                f"output={folder}: can't be written to ({error.strerror or error}); name another"
            ) from error
        return Exported(target, size, facts, proved, described)

    # each writes a file into path, and returns what it says of itself, and its proof

    def _floats(self, path: Path) -> tuple[ModelFacts, proof.Proof]:
        log.info("1/3 writing %s, which takes up to a minute …", path.name)
        graph = self._graph()
        facts = describe(graph, self.enhancer, self.weights)
        load_writer(self.format).write(graph, path, facts.metadata())
        return facts, self._prove(path)

    def _calibrated(self, path: Path) -> tuple[ModelFacts, proof.Proof]:
        log.info("1/3 writing %s, which takes up to a minute …", path.name)
        writer, quantizer, graph = load_writer(self.format), load_quantizer(self.format), self._graph()
        facts = describe(graph, self.enhancer, self.weights)
        source = self.integers.source
        if source is None:
            source = path.with_name(f"float_{path.name}")
            writer.write(graph, source, facts.metadata())
        quantizer.quantize(source, path, self.integers.name, self.integers.waves)
        work = quantizer.work(path)
        if self.strict and work.left:
            raise UserError(f"strict=true: nothing was written, since {in_float(work.share, work.left)}")
        proved = self._prove(path, exact=False)
        integers = Integers(self.integers.name, share=work.share, left=work.left, snr=proved.snr)
        facts = replace(facts, integers=integers)
        writer.write_metadata(path, facts.metadata())
        return facts, proved

    def _graph(self):
        chosen = FORMATS[self.format]
        return chosen.graph(optimized(self.enhancer, chosen.recurrence), self.kind)

    def _network(self, path: Path) -> tuple[ModelFacts, proof.Proof]:
        """Compare the file's integers with the simulation, too, and state in the file how near they are."""
        network, enhancer = self.integers, self.enhancer
        try:
            writer = load_network_writer(self.format)
        except ImportError as error:
            raise UserError(f"{path.name}: writing it needs {error.name}: pip install -e '.[device]'") from error
        log.info("1/3 writing %s …", path.name)
        graph = writer.IntegerGraph(network, enhancer.core)
        facts = describe(graph, enhancer, self.weights)
        writer.write(graph, path, facts.metadata())
        proved = self._prove(path, exact=False)
        try:
            agreement = graph.check(path, network_input(enhancer, self.recording.wave))
        except UserError as error:
            raise UserError(f"quantize={network.name}: nothing was written, since {error}") from error
        integers = replace(facts.integers, share=graph.share(path), snr=proved.snr, check=str(agreement))
        facts = replace(facts, integers=integers)
        writer.write(graph, path, facts.metadata())
        return facts, proved

    def _prove(self, path: Path, exact: bool = True) -> proof.Proof:
        """Prove the file in a process of its own: a runtime in C++ may end the process at a bad file."""
        package = FORMATS[self.format].package or compiler()[0]
        log.info("2/3 running it in %s over %s …", package, self.recording.name)
        hops = proof.whole_hops(self.recording.wave, self.enhancer.hop_length)
        try:
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), begin) as process:
                try:
                    output = process.submit(_streamed, path, FORMATS[self.format].runner, hops).result()
                except KeyboardInterrupt:
                    for child in multiprocessing.active_children():
                        child.kill()  # else the pool would wait for its end
                    raise
            return proof.prove(output, self.enhancer, hops, exact)
        except UserError as error:
            raise UserError(f"format={self.format}: nothing was written, since the file is wrong: {error}") from error
        except BrokenProcessPool as error:
            raise UserError(
                f"format={self.format}: nothing was written, since {package} crashed on it, or was ended from outside"
            ) from error


def in_float(share: float, left: Mapping[str, str]) -> str:
    """Return in words how much is left in float. share: of integers. left: kinds of operators, and why."""
    reasons = "; ".join(f"{kind}: {why}" for kind, why in left.items())
    return f"{100 * (1 - share):.3g} % of the multiplications are left in float ({reasons})"


def _streamed(path: Path, runner: str, hops: np.ndarray) -> proof.Output:
    torch.set_num_threads(1)
    return proof.stream_hops(resolve_name(runner)(path), hops)


def _size(path: Path) -> int:
    files = path.iterdir() if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files)
