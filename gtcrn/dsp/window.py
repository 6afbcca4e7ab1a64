"""The windows of analysis and synthesis, with numpy alone: runtimes without torch have the same."""

from __future__ import annotations

import numpy as np

from gtcrn.errors import UserError

# by the name that exported files state: the power of a half sine, whose square is a periodic Hann window
WINDOWS = {"hann_sqrt": 1, "hann": 2, "rectangular": 0}


def analysis_window(name: str, length: int) -> np.ndarray:
    """Return one of `WINDOWS`, (length,) float64. Raises UserError for another name."""
    if name not in WINDOWS:
        raise UserError(f"window={name[:50]}: must be one of {', '.join(WINDOWS)}")
    return np.sin(np.pi * np.arange(length) / length) ** WINDOWS[name]


def synthesis_window(window: np.ndarray, hop_length: int) -> np.ndarray:
    """Return the window (length,) by which frames are multiplied before they are added up, so that they restore the
    signal: the one of analysis, divided by the sum of the squares of all that overlap there.

    Raises UserError if too few of them overlap.
    """
    length = len(window)
    if not 0 < hop_length <= length // 2:
        raise UserError(f"hop_length={hop_length}: must be at least 1 and at most half of n_fft={length}")
    squares = np.append(window**2, np.zeros(-length % hop_length))
    return window / np.resize(squares.reshape(-1, hop_length).sum(axis=0), length)
