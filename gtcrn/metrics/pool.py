"""The scoring of many pairs on all cores."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import soundfile
from tqdm import tqdm

from gtcrn import flac
from gtcrn.errors import UserError
from gtcrn.metrics.pair import check_metrics, evaluate_pair
from gtcrn.metrics.registry import DEFAULT_METRICS, METRICS, Metric
from gtcrn.workers import parallel

_TOLERANCE = 0.010  # s by which lengths may differ (codecs and resamplers); the longer signal is cut


@dataclass(frozen=True)
class WavePair:
    """The signals of one pair: mono audio files, or arrays (N,) in [-1, 1].

    clean: None where there is no reference. noisy: scored beside `enhanced` where given, and needed by some metrics.
    info: further columns of the result, e.g. {"snr": 5.0}.
    """

    name: str
    clean: str | Path | np.ndarray | None
    enhanced: str | Path | np.ndarray
    noisy: str | Path | np.ndarray | None = None
    info: Mapping[str, object] = field(default_factory=dict)

    def signals(self) -> dict[str, str | Path | np.ndarray]:
        """Return the signals that are given, by name. Rates and lengths of all are compared with the first."""
        signals = {"clean": self.clean, "enhanced": self.enhanced, "noisy": self.noisy}
        return {role: signal for role, signal in signals.items() if signal is not None}


def score_pairs(
    pairs: Iterable[WavePair],
    metrics: Sequence[str] = DEFAULT_METRICS,
    sample_rate: int | None = None,
    workers: int = -1,
    progress: bool = True,
    count: int | None = None,
) -> pd.DataFrame:
    """Score pairs and return a table with a row per pair, in order.

    Pairs may come from a generator: while it makes the next one, in this process, the worker processes score those
    before.

    Its columns are `name`, those of `info`, `noisy_<metric>` and `enhanced_<metric>`, and `failures`, which is
    "column: reason; ..." or "". No pair is ever dropped; a failed metric is nan.

    sample_rate: Hz of the arrays; files state their own. workers: processes, -1 for one per core; they
    stay alive for a while, so that the next call begins at once. count: how many pairs a generator will make, for the
    progress bar.

    Before anything is scored, or where the pairs come from a generator as each of them comes, raises UserError that
    names the file if one is missing, unreadable, not mono, or differs from its clean file (without one, the noisy from
    the enhanced) in rate or by more than 10 ms in length.
    """
    check_metrics(metrics)
    if workers == 0:
        raise UserError("metrics.workers=0: give a number of processes, or -1 for one per core")
    checked: Iterable[WavePair] = _checked(pairs, sample_rate)
    if isinstance(pairs, Sequence):
        checked, count = list(checked), len(pairs)
    with parallel():  # pesq and pystoi use one core each
        # joblib would take what is not dispatched at first in a thread of its own, where torch has other settings
        rows = joblib.Parallel(workers, return_as="generator", pre_dispatch="all", batch_size=1)(
            joblib.delayed(_score)(pair, {name: METRICS[name] for name in metrics}, sample_rate) for pair in checked
        )
        rows = tqdm(rows, "scoring", count, unit="file", disable=None if progress else True)
        return pd.DataFrame(list(rows))


def _checked(pairs: Iterable[WavePair], sample_rate: int | None) -> Iterator[WavePair]:
    for pair in pairs:
        _check(pair, sample_rate)
        yield pair


def _score(pair: WavePair, metrics: dict[str, Metric], sample_rate: int | None) -> dict[str, object]:
    METRICS.update(metrics)  # a worker process has not imported the modules that register metrics
    waves = {}
    for role, signal in pair.signals().items():
        if not isinstance(signal, np.ndarray):
            with flac.opened(os.fsencode(signal)) as file:
                signal, sample_rate = file.read(dtype="float32"), file.samplerate
        waves[role] = signal
    length = min(map(len, waves.values()))
    waves = {role: wave[:length] for role, wave in waves.items()}
    values: dict[str, float] = {}
    failures: dict[str, str] = {}
    for role in ("noisy", "enhanced"):
        if role in waves:
            assert sample_rate is not None  # `_check` has seen that there is one
            scores = evaluate_pair(waves.get("clean"), waves[role], sample_rate, list(metrics), waves.get("noisy"))
            values |= {f"{role}_{metric}": value for metric, value in scores.values.items()}
            failures |= {f"{role}_{metric}": reason for metric, reason in scores.failures.items()}
    reasons = "; ".join(f"{column}: {reason}" for column, reason in failures.items())
    return {"name": pair.name, **pair.info, **values, "failures": reasons}


def _check(pair: WavePair, sample_rate: int | None) -> None:
    shapes = {}
    for role, signal in pair.signals().items():
        name = f"{pair.name} ({role})" if isinstance(signal, np.ndarray) else str(signal)
        shapes[name] = _shape(name, signal, sample_rate)
    reference, (reference_length, reference_rate) = next(iter(shapes.items()))
    for name, (length, rate) in shapes.items():
        if rate != reference_rate:
            raise UserError(f"{name}: {rate} Hz, but {reference} has {reference_rate} Hz; resample one")
        if abs(length - reference_length) > _TOLERANCE * rate:
            raise UserError(
                f"{name}: {length} samples, but {reference} has {reference_length}; "
                f"they may differ by {math.floor(_TOLERANCE * rate)} (10 ms)"
            )


def _shape(name: str, signal: str | Path | np.ndarray, sample_rate: int | None) -> tuple[int, int]:
    """Return the length in samples and the rate in Hz of a signal. Raises UserError if it can't be scored."""
    if isinstance(signal, np.ndarray):
        if sample_rate is None:
            raise UserError(f"{name} is an array: give its sample_rate in Hz")
        if signal.ndim != 1:
            raise UserError(f"{name} has the shape {signal.shape}: expected mono, (N,)")
        return len(signal), sample_rate
    if not Path(signal).is_file():
        raise UserError(f"{name}: no such file")
    try:
        with flac.opened(os.fsencode(signal)) as file:  # bytes, for names that are not UTF-8
            frames, sample_rate, channels = file.frames, file.samplerate, file.channels
    except soundfile.LibsndfileError as error:
        raise UserError(f"{name}: not a readable audio file ({error.error_string})") from error
    if channels != 1:
        raise UserError(f"{name}: {channels} channels; scores are of mono signals")
    return frames, sample_rate
