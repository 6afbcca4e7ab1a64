"""Timing of a hop in every runtime that a model is exported to, side by side in one run.

In every round each runtime is timed on half a second of audio, in an order that changes from round to round, so that a
machine that is busy for a while slows all of them. Two clocks are read: wall-clock time is what a user waits for, and
processor time is what the work costs, which other programs do not lengthen (they interrupt long steps more than short
ones). Ratios are therefore medians over rounds of processor times in the same round, per second of audio, since hops
may differ in length.
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
from gtcrn.export.optimize import optimized
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

ROUND = 0.5  # s of audio for which each is timed in a round
WARM_UP = 5  # hops before each timing, which fill the caches and are not timed
_NOISE = 10  # s

Pairs = Mapping[str, tuple[np.ndarray, np.ndarray]]  # noisy and clean (N,) by name


class Candidate(NamedTuple):
    """A runner that takes part in a comparison, and the files that it runs."""

    name: str
    runner: Runner
    paths: tuple[Path, ...] = ()

    @property
    def hop_ms(self) -> float:
        return 1e3 * self.runner.hop_length / self.runner.sample_rate

    @property
    def file_bytes(self) -> int | None:
        """The size of its files in bytes, with ncnn's weights; None if it has no files."""
        weights = [path.with_suffix(".bin") for path in self.paths if path.suffix == ".param"]
        return sum(path.stat().st_size for path in [*self.paths, *weights]) or None


def find_candidates(
    files: Sequence[Path], reference: Sequence[Path] = (), enhancer: Enhancer | None = None
) -> list[Candidate]:
    """Open the reference, the enhancer in PyTorch and the files, in this order, none of them twice.

    files: exported files and folders of them. reference: one file, or the two of DTLN's author.

    Raises `UserError` naming the file that is missing, of an unknown suffix, does not run, or has another sample rate.
    """
    if len(reference) > 2:
        raise UserError(
            f"profile.reference={','.join(map(str, reference))}: give one file, or the two of DTLN's author"
        )
    compared = {path.resolve() for path in reference}
    others = [path for path in _found(files) if path.resolve() not in compared]
    names = short_names([*reference, *others])
    found = []
    if reference:
        found.append(Candidate(" + ".join(names[: len(reference)]), open_runner(*reference), tuple(reference)))
    if enhancer:
        found.append(Candidate(PYTORCH, eager.open_stream(optimized(enhancer))))
    found += [Candidate(name, open_runner(path), (path,)) for name, path in zip(names[len(reference) :], others)]
    first = found[0]
    for other in found:
        if other.runner.sample_rate != first.runner.sample_rate:
            raise UserError(
                f"{other.name}: {other.runner.sample_rate} Hz, but {first.name} has {first.runner.sample_rate} Hz; "
                "compare files of one sample rate"
            )
    return found


def _found(files: Sequence[Path]) -> list[Path]:
    """Return the files, and those in the folders, each once."""
    found: dict[Path, Path] = {}
    for path in files:
        inside = sorted(file for file in path.rglob("*") if file.suffix in RUNNERS) if path.is_dir() else [path]
        if not inside:
            raise UserError(f"profile.files={path}: no exported files ({', '.join(RUNNERS)}) in this folder")
        found |= {file.resolve(): file for file in inside}
    return list(found.values())


def short_names(paths: Sequence[Path]) -> list[str]:
    """Return the shortest ends of the paths that still differ; ncnn's files are named by their folder."""
    parts = [(path.parent if path.suffix == ".param" else path).resolve().parts for path in paths]
    for depth in count(1):
        names = ["/".join(part[-depth:]) for part in parts]
        if len(set(names)) == len(names):
            return names


class TimedCall(NamedTuple):
    """A call that is timed, hop by hop.

    call: `process()`, samples in and out as a user calls it, or the call that runs the file alone.
    """

    name: str
    call: str
    stft: str  # where it is computed
    hop_ms: float
    file_bytes: int | None
    step: Callable[[np.ndarray], object]
    inputs: Sequence[np.ndarray]  # of one hop each, repeated from the beginning at their end


def timed_calls(candidates: Sequence[Candidate], signal: np.ndarray) -> list[TimedCall]:
    """Return the calls to time of every candidate: process(), and for files also the file alone.

    The file alone is without numpy's STFT; ONNX files are called by onnxruntime's run() too. signal: (N,) at the
    candidates' sample rate.
    """
    found = []
    for candidate in candidates:
        hop = candidate.runner.hop_length
        hops = signal[: len(signal) // hop * hop].reshape(-1, hop)
        outer_stft = isinstance(candidate.runner, Stream) and has_outer_stft(candidate.runner)
        in_numpy = outer_stft or len(candidate.paths) > 1
        stft = "PyTorch" if candidate.name == PYTORCH else "numpy" if in_numpy else "inside"
        facts = candidate.hop_ms, candidate.file_bytes
        found.append(TimedCall(candidate.name, PROCESS, stft, *facts, candidate.runner.process, hops))
        if not candidate.paths or not isinstance(candidate.runner, Stream):
            continue
        inputs = _spectra(hops, candidate.runner.step.window) if outer_stft else hops[:, None]
        (path,) = candidate.paths
        steps = {PLAIN_RUN: PlainRun(path)} if path.suffix == ".onnx" else {}
        steps[BARE_CALLS[path.suffix]] = file_step(candidate.runner)
        stft = "left out" if outer_stft else stft
        found += [TimedCall(candidate.name, call, stft, *facts, step, inputs) for call, step in steps.items()]
    return found


def _spectra(hops: np.ndarray, window: np.ndarray) -> np.ndarray:
    """Return the spectra (T, 1, F, 1, 2) of consecutive hops (T, hop) under a window (n_fft,)."""
    n_fft = len(window)
    padded = np.pad(hops.ravel(), (n_fft - hops.shape[1], 0))
    frames = np.lib.stride_tricks.sliding_window_view(padded, n_fft)[:: hops.shape[1]]
    spec = np.fft.rfft(frames * window)
    return np.stack([spec.real, spec.imag], axis=-1).astype(np.float32)[:, None, :, None]


def noise(sample_rate: int) -> np.ndarray:
    """Return noise (N,) that rises and fades, with silence between, in which numbers may become denormal."""
    seconds = np.arange(_NOISE * sample_rate) / sample_rate
    loudness = 0.1 * np.maximum(0, np.sin(np.pi * seconds))
    return (loudness * np.random.default_rng(0).standard_normal(len(seconds))).astype(np.float32)


@dataclass(frozen=True)
class Timing:
    """The times of a call.

    wall, processor: (rounds, hops) wall-clock and processor times in ms. growth: bytes by which the process grew while
    the call was timed, nan where the system does not tell.
    """

    timed_call: TimedCall
    wall: np.ndarray
    processor: np.ndarray
    growth: float

    @property
    def processors(self) -> float:
        """The mean number of processors in use: 1 for one thread that was never interrupted."""
        return self.processor.sum() / self.wall.sum()

    def times_faster(self, than: Timing) -> float:
        """Return the median over rounds of the ratio of processor times."""
        other, own = (np.median(timing.processor, axis=1) / timing.timed_call.hop_ms for timing in (than, self))
        return float(np.median(other / own))


def measure(calls: Sequence[TimedCall], seconds: float) -> list[Timing]:
    """Time each call for so many seconds of audio on one thread, after one round that is left out."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)  # in this thread, for all alike: the first session of onnxruntime sets it too
    gc.collect()  # otherwise garbage from before could be freed while one of the calls is timed
    rounds = math.ceil(seconds / ROUND)
    watches = [_Stopwatch(call, rounds) for call in calls]
    order = np.random.default_rng(0)
    for number in tqdm(range(-1, rounds), "timing", unit="round", disable=None):
        for index in order.permutation(len(watches)):
            watches[index].run_round(number)
    return [watch.timing() for watch in watches]


class _Stopwatch:
    def __init__(self, call: TimedCall, rounds: int):
        self._call = call
        self._inputs = cycle(list(call.inputs))
        hops = max(1, round(1e3 * ROUND / call.hop_ms))
        self._times = np.ones((2, rounds, hops))  # written to now, so that its memory does not grow later
        self._growth = 0.0

    def run_round(self, number: int) -> None:
        """Time one round of hops; a round with a number below zero is not recorded."""
        size = _own_memory()
        for x in islice(self._inputs, WARM_UP):
            self._call.step(x)
        times = [_timed(self._call.step, x) for x in islice(self._inputs, self._times.shape[2])]
        if number >= 0:
            self._times[:, number] = np.transpose(times)
            self._growth += _own_memory() - size

    def timing(self) -> Timing:
        return Timing(self._call, *self._times, self._growth)


def _timed(step: Callable[[np.ndarray], object], x: np.ndarray) -> tuple[float, float]:
    """Return the wall-clock and processor time of a step in milliseconds."""
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
    """Read the pairs in noisy/ and clean/. Raises `UserError` if there are none, or one is incomplete or stereo."""
    pairs = pair_folders(folder / "noisy", folder / "clean")
    if not pairs:
        raise UserError(f"profile.pairs={folder}: no audio files in its folders noisy and clean")
    return {pair.name: tuple(_mono(file, sample_rate) for file in pair.files) for pair in pairs}


def _mono(file: Path, sample_rate: int) -> np.ndarray:
    wave = audio.load(file, sample_rate)
    if wave.ndim > 1:
        raise UserError(f"{file}: {wave.shape[1]} channels; pairs are of mono files")
    return wave


def quality(candidates: Sequence[Candidate], pairs: Pairs, workers: int = -1) -> pd.DataFrame:
    """Score the output of every candidate: return a table with a row for the noisy files and one per candidate.

    Columns are the means of `SCORES`, and `max_error`, the largest difference from PyTorch's output, nan where it was
    not run.
    """
    outputs = {"noisy": {name: noisy for name, (noisy, _) in pairs.items()}}
    for candidate in tqdm(candidates, "enhancing", unit="runtime", disable=None):
        outputs[candidate.name] = {name: enhance(candidate.runner, noisy) for name, (noisy, _) in pairs.items()}
    scored = [
        WavePair(name, clean=pairs[name][1], enhanced=wave, info={"system": system})
        for system, waves in outputs.items()
        for name, wave in waves.items()
    ]
    scores = score_pairs(scored, SCORES, candidates[0].runner.sample_rate, workers)
    means = scores.groupby("system", sort=False)[[f"enhanced_{metric}" for metric in SCORES]].mean()
    means.columns = list(SCORES)
    expected = outputs.get(PYTORCH, {})
    errors = {
        candidate.name: max(np.abs(outputs[candidate.name][name] - wave).max() for name, wave in expected.items())
        for candidate in candidates
        if expected and candidate.name != PYTORCH
    }
    return means.assign(max_error=pd.Series(errors, dtype=float)).rename_axis("name")


def enhance(runner: Runner, wave: np.ndarray) -> np.ndarray:
    """Enhance a whole wave (N,) by a new stream, and remove its delay."""
    runner.reset()
    missing = runner.latency + -(len(wave) + runner.latency) % runner.hop_length
    return runner.process(np.pad(wave, (0, missing)))[runner.latency :][: len(wave)]
