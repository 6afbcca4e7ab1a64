"""Recordings as the first inputs of an exported file, hop by hop."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from gtcrn.runtime.framing import Stream, stream_arguments


class _Recorder:
    """A step that changes nothing and keeps what it is given."""

    def __init__(self):
        self.seen: list[np.ndarray] = []

    def reset(self) -> None:
        self.seen.clear()

    def __call__(self, x: np.ndarray) -> np.ndarray:
        self.seen.append(x.copy())
        return x


def inputs(wave: np.ndarray, metadata: Mapping[str, str]) -> np.ndarray:
    """(N,) -> (T, 1, F, 1, 2) spectra or (T, 1, hop_length) samples, as a file with this metadata takes them.

    T is 0 of less than a hop.
    """
    recorder = _Recorder()
    Stream(*stream_arguments(recorder, metadata)).process(wave)
    return np.array(recorder.seen)
