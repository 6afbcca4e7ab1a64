"""The signal-to-noise ratio of two signals."""

from __future__ import annotations

from math import inf, log10

import numpy as np


def measured_snr(noisy: np.ndarray, clean: np.ndarray) -> float:
    """Return the SNR 10 log10(sum clean^2 / sum (noisy - clean)^2) in dB of two signals of one shape.

    It is inf without noise and -inf for noise alone.
    """
    clean = clean.astype(np.float64)
    signal, noise = np.sum(clean**2), np.sum((noisy - clean) ** 2)
    if not noise:
        return inf
    return 10 * log10(signal / noise) if signal else -inf
