"""The window of analysis and synthesis, with numpy alone: runtimes without torch have the same."""

from __future__ import annotations

import numpy as np


def sqrt_hann(length: int) -> np.ndarray:
    """Return the square root of a periodic Hann window, (length,) float64."""
    return np.sin(np.pi * np.arange(length) / length)
