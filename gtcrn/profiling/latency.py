"""How long a hop takes in every runtime that a model is exported to, side by side in one run.

All are timed in turn, half a second of audio each, in an order that changes from round to round: a machine that is busy
for a while is busy for all. Two clocks are read. The one on the wall tells what a user waits for. That of the processor
tells what the work costs: another program's turn does not lengthen it, which else would hit long steps, but not
short ones. So ratios are medians over rounds of processor times of the same round, per second of audio, since hops may
differ in length.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count, cycle, islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from gtcrn.data import audio
from gtcrn.data.pairs import pair_folders
from gtcrn.errors import UserError
from gtcrn.metrics import WavePair, score_pairs
from gtcrn.models.enhancer import Enhancer
from gtcrn.runtime import eager
from gtcrn.runtime.framing import Runner, Stream
from gtcrn.runtime.runners import RUNNERS, PlainRun, file_step, has_outer_stft, open_runner

PYTORCH = "PyTorch, eager"
PROCESS = "process()"
PLAIN_RUN = "run()"
BARE_CALLS = {".onnx": "binding", ".tflite": "invoke()", ".param": "extract()", ".pt2": "module()"}
SCORES = ("pesq_wb", "stoi", "si_sdr")

ROUND = 0.5  # s of audio that each has in its turn
WARM_UP = 5  # hops at the beginning of a turn, after which the caches are its own; they are not timed
_NOISE = 10  # s

Pairs = Mapping[str, tuple[np.ndarray, np.ndarray]]  # noisy and clean (N,) by name


class Participant(NamedTuple):
    """A runner, and the files that it runs."""

    name: str
    runner: Runner
    paths: tuple[Path, ...] = ()

    @property
    def hop_ms(self) -> float:
        return 1e3 * self.runner.hop_length / self.runner.sample_rate

    @property
    def file_bytes(self) -> int | None:
        """Of its files, with ncnn's weights; None without."""
        weights = [path.with_suffix(".bin") for path in self.paths if path.suffix == ".param"]
        return sum(path.stat().st_size for path in [*self.paths, *weights]) or None


def participants(
    files: Sequence[Path], reference: Sequence[Path] = (), enhancer: Enhancer | None = None
) -> list[Participant]:
    """The reference, PyTorch and the files, in this order, each as far as given, none of them twice.

    files: exported ones and folders of them. reference: one file, or the two of DTLN's author.

    Raises `UserError` naming the file that is missing, of an unknown suffix, does not run, or has another sample rate.
    """
    if len(reference) > 2:
        raise UserError(f"reference={','.join(map(str, reference))}: give one file, or the two of DTLN's author")
    compared = {path.resolve() for path in reference}
    others = [path for path in _found(files) if path.resolve() not in compared]
    names = short_names([*reference, *others])
    found = []
    if reference:
        found.append(Participant(" + ".join(names[: len(reference)]), open_runner(*reference), tuple(reference)))
    if enhancer:
        found.append(Participant(PYTORCH, eager.open_stream(enhancer)))
    found += [Participant(name, open_runner(path), (path,)) for name, path in zip(names[len(reference) :], others)]
    first = found[0]
    for other in found:
        if other.runner.sample_rate != first.runner.sample_rate:
            raise UserError(
                f"{other.name}: {other.runner.sample_rate} Hz, but {first.name} has {first.runner.sample_rate} Hz; "
                "compare files of one sample rate"
            )
    return found


def _found(files: Sequence[Path]) -> list[Path]:
    """The files, and those in the folders, each once."""
    found: dict[Path, Path] = {}
    for path in files:
        inside = sorted(file for file in path.rglob("*") if file.suffix in RUNNERS) if path.is_dir() else [path]
        if not inside:
            raise UserError(f"files={path}: no exported files ({', '.join(RUNNERS)}) in this folder")
        found |= {file.resolve(): file for file in inside}
    return list(found.values())


def short_names(paths: Sequence[Path]) -> list[str]:
    """As short as they can be and still differ; of ncnn's files the folder's."""
    parts = [(path.parent if path.suffix == ".param" else path).resolve().parts for path in paths]
    for depth in count(1):
        names = ["/".join(part[-depth:]) for part in parts]
        if len(set(names)) == len(names):
            return names


class Entry(NamedTuple):
    """What is timed: a step on one hop after another.

    call: `process()`, samples in and out as a user has them, or else what does the work in the file alone.
    """

    name: str
    call: str
    stft: str  # where it is computed
    hop_ms: float
    file_bytes: int | None
    step: Callable[[np.ndarray], object]
    inputs: Sequence[np.ndarray]  # of one hop each, begun again at their end


def entries(taking_part: Sequence[Participant], signal: np.ndarray) -> list[Entry]:
    """All of them by process(); files alone, without numpy's STFT, too, and ONNX files by onnxruntime's run().

    signal: (N,) at their sample rate.
    """
    found = []
    for part in taking_part:
        hop = part.runner.hop_length
        hops = signal[: len(signal) // hop * hop].reshape(-1, hop)
        framed = isinstance(part.runner, Stream) and has_outer_stft(part.runner)
        stft = "PyTorch" if part.name == PYTORCH else "numpy" if framed or len(part.paths) > 1 else "inside"
        facts = part.hop_ms, part.file_bytes
        found.append(Entry(part.name, PROCESS, stft, *facts, part.runner.process, hops))
        if not part.paths or not isinstance(part.runner, Stream):
            continue
        inputs = _spectra(hops, part.runner.latency + hop) if framed else hops[:, None]
        (path,) = part.paths
        steps = {PLAIN_RUN: PlainRun(path)} if path.suffix == ".onnx" else {}
        steps[BARE_CALLS[path.suffix]] = file_step(part.runner)
        stft = "left out" if framed else stft
        found += [Entry(part.name, call, stft, *facts, step, inputs) for call, step in steps.items()]
    return found


def _spectra(hops: np.ndarray, n_fft: int) -> np.ndarray:
    """(T, hop) -> (T, 1, F, 1, 2)"""
    padded = np.pad(hops.ravel(), (n_fft - hops.shape[1], 0))
    frames = np.lib.stride_tricks.sliding_window_view(padded, n_fft)[:: hops.shape[1]]
    spec = np.fft.rfft(frames * np.sin(np.pi * np.arange(n_fft) / n_fft))
    return np.stack([spec.real, spec.imag], axis=-1).astype(np.float32)[:, None, :, None]


def noise(sample_rate: int) -> np.ndarray:
    """(N,): noise that swells and dies away, with silence between, where numbers may become denormal."""
    seconds = np.arange(_NOISE * sample_rate) / sample_rate
    loudness = 0.1 * np.maximum(0, np.sin(np.pi * seconds))
    return (loudness * np.random.default_rng(0).standard_normal(len(seconds))).astype(np.float32)


@dataclass(frozen=True)
class Timing:
    """wall, processor: (rounds, hops) ms by either clock. growth: bytes by which the process became larger in the turns
    of this entry, nan where the system does not tell.
    """

    entry: Entry
    wall: np.ndarray
    processor: np.ndarray
    growth: float

    @property
    def processors(self) -> float:
        """How many it kept busy: 1 of one thread that was never interrupted."""
        return self.processor.sum() / self.wall.sum()

    def times_faster(self, than: Timing) -> float:
        """Median over rounds of the ratio of processor times."""
        theirs, ours = (np.median(timing.processor, axis=1) / timing.entry.hop_ms for timing in (than, self))
        return float(np.median(theirs / ours))


def measure(entries: Sequence[Entry], seconds: float) -> list[Timing]:
    """Each for so much audio, on one thread, after a round that is left out."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)  # of this thread, for all alike: the first session of onnxruntime decides it too
    gc.collect()  # lest what others left is given back in the turn of one of these
    rounds = math.ceil(seconds / ROUND)
    watches = [_Stopwatch(entry, rounds) for entry in entries]
    order = np.random.default_rng(0)
    for number in tqdm(range(-1, rounds), "timing", unit="round", disable=None):
        for index in order.permutation(len(watches)):
            watches[index].turn(number)
    return [watch.timing() for watch in watches]


class _Stopwatch:
    def __init__(self, entry: Entry, rounds: int):
        self._entry = entry
        self._inputs = cycle(list(entry.inputs))
        hops = max(1, round(1e3 * ROUND / entry.hop_ms))
        self._times = np.ones((2, rounds, hops))  # written to now, lest memory grows later
        self._growth = 0.0

    def turn(self, number: int) -> None:
        """One round; one with a number below zero is not recorded."""
        size = _own_memory()
        for x in islice(self._inputs, WARM_UP):
            self._entry.step(x)
        times = [_timed(self._entry.step, x) for x in islice(self._inputs, self._times.shape[2])]
        if number >= 0:
            self._times[:, number] = np.transpose(times)
            self._growth += _own_memory() - size

    def timing(self) -> Timing:
        return Timing(self._entry, *self._times, self._growth)


def _timed(step: Callable[[np.ndarray], object], x: np.ndarray) -> tuple[float, float]:
    """Milliseconds by the clock on the wall and by that of the processor."""
    processor, wall = time.process_time(), time.perf_counter()
    step(x)
    return 1e3 * (time.perf_counter() - wall), 1e3 * (time.process_time() - processor)


def _own_memory() -> float:
    """Return the bytes that belong to the process alone, in memory or swapped out.

    Pages of files are left out: those of libraries come and go as other programs need memory.
    """
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:  # only Linux tells
        return math.nan
    return 1024.0 * sum(int(line.split()[1]) for line in lines if line.startswith(("RssAnon:", "VmSwap:")))


def read_pairs(folder: Path, sample_rate: int) -> Pairs:
    """The files in noisy/ and clean/. Raises `UserError` if there are none, or naming one that lacks, or is stereo."""
    pairs = pair_folders(folder / "noisy", folder / "clean")
    if not pairs:
        raise UserError(f"pairs={folder}: no audio files in its folders noisy and clean")
    return {pair.name: tuple(_mono(file, sample_rate) for file in pair.files) for pair in pairs}


def _mono(file: Path, sample_rate: int) -> np.ndarray:
    wave = audio.load(file, sample_rate)
    if wave.ndim > 1:
        raise UserError(f"{file}: {wave.shape[1]} channels; pairs are of mono files")
    return wave


def quality(taking_part: Sequence[Participant], pairs: Pairs, workers: int = -1) -> pd.DataFrame:
    """A row for the noisy files and one per participant: means of `SCORES`, and `max_error`, the largest difference
    from PyTorch's output, nan where there is nothing to compare.
    """
    outputs = {"noisy": {name: noisy for name, (noisy, _) in pairs.items()}}
    for part in tqdm(taking_part, "enhancing", unit="runtime", disable=None):
        outputs[part.name] = {name: enhance(part.runner, noisy) for name, (noisy, _) in pairs.items()}
    scored = [
        WavePair(name, clean=pairs[name][1], enhanced=wave, info={"system": system})
        for system, waves in outputs.items()
        for name, wave in waves.items()
    ]
    scores = score_pairs(scored, SCORES, taking_part[0].runner.sample_rate, workers)
    means = scores.groupby("system", sort=False)[[f"enhanced_{metric}" for metric in SCORES]].mean()
    means.columns = list(SCORES)
    expected = outputs.get(PYTORCH, {})
    errors = {
        part.name: max(np.abs(outputs[part.name][name] - wave).max() for name, wave in expected.items())
        for part in taking_part
        if expected and part.name != PYTORCH
    }
    return means.assign(max_error=pd.Series(errors, dtype=float)).rename_axis("name")


def enhance(runner: Runner, wave: np.ndarray) -> np.ndarray:
    """(N,) -> (N,), streamed from the beginning, without the delay."""
    runner.reset()
    missing = runner.latency + -(len(wave) + runner.latency) % runner.hop_length
    return runner.process(np.pad(wave, (0, missing)))[runner.latency :][: len(wave)]
