"""Recordings as the first inputs of an exported file, hop by hop."""

from __future__ import annotations

import numpy as np

from gtcrn.runtime.facts import Signal
from gtcrn.runtime.framing import Stream, stream_arguments


class _Recorder:
    """A step that changes nothing and keeps its inputs."""

    def __init__(self):
        self.seen: list[np.ndarray] = []

    def reset(self) -> None:
        self.seen.clear()

    def __call__(self, x: np.ndarray) -> np.ndarray:
        self.seen.append(x.copy())
        return x


def inputs(wave: np.ndarray, signal: Signal) -> np.ndarray:
    """Return (N,) as a file of this signal takes it: (T, 1, F, 1, 2) spectra or (T, 1, hop_length) samples.

    T is 0 of less than a hop.
    """
    recorder = _Recorder()
    Stream(*stream_arguments(recorder, signal)).process(wave)
    return np.array(recorder.seen)
