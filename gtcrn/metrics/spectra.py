"""Distances between the spectra of clean and enhanced speech.

Both look at levels down to 50 dB below the loudest of the clean speech, so that the depth of pauses, which nobody
hears, does not outweigh the speech (I. Cohen and S. Gannot, Spectral enhancement methods, in: Springer Handbook of
Speech Processing, 2008). All signals are (N,) float64.
"""

from __future__ import annotations

import librosa
import numpy as np
from scipy.fft import dct
from scipy.signal import get_window

from gtcrn.metrics.failure import MetricFailure

_WINDOW = 0.032  # s
_RANGE = 50  # dB
_BANDS = 40
_CEPSTRA = slice(1, 14)  # without the mean, which is the level


def log_spectral_distance(clean: np.ndarray, enhanced: np.ndarray, sample_rate: int) -> float:
    """Return the LSD: the root mean square over frequency of the difference of the levels in dB, averaged over frames.

    Raises MetricFailure if the signal is too short.
    """
    clean_levels, enhanced_levels = _levels(*(np.abs(spectra(wave, sample_rate)) ** 2 for wave in (clean, enhanced)))
    return float(np.sqrt(((clean_levels - enhanced_levels) ** 2).mean(axis=1)).mean())


def mel_cepstral_distortion(clean: np.ndarray, enhanced: np.ndarray, sample_rate: int) -> float:
    """Return the MCD in dB: 10 / ln 10 * sqrt(2 * sum of the squared differences), averaged over frames.

    R. Kubichek, Mel-cepstral distance measure for objective speech quality assessment, 1993, without alignment in
    time; of coefficients 1 to 13 of the logarithmic power in 40 mel bands.

    Raises MetricFailure if the signal is too short.
    """
    window = round(_WINDOW * sample_rate)
    bands = librosa.filters.mel(sr=sample_rate, n_fft=window, n_mels=_BANDS)  # (40, F)
    levels = _levels(*(np.abs(spectra(wave, sample_rate)) ** 2 @ bands.T for wave in (clean, enhanced)))
    # of levels in dB an orthonormal transform divided by the root of their number has 10 / ln 10 and the 2 within it
    clean_cepstra, enhanced_cepstra = (dct(level, norm="ortho")[:, _CEPSTRA] / np.sqrt(_BANDS) for level in levels)
    return float(np.linalg.norm(clean_cepstra - enhanced_cepstra, axis=1).mean())


def spectra(wave: np.ndarray, sample_rate: int) -> np.ndarray:
    """Return the spectra (T, F) of Hann windows of 32 ms, half a window apart.

    Raises MetricFailure if the signal is shorter than one.
    """
    length = round(_WINDOW * sample_rate)
    if len(wave) < length:
        raise MetricFailure("too short: under a frame of 32 ms")
    frames = np.lib.stride_tricks.sliding_window_view(wave, length)[:: length // 2]
    return np.fft.rfft(frames * get_window("hann", length))


def _levels(clean: np.ndarray, enhanced: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return powers in dB, of which none lies more than 50 dB below the largest of the clean ones."""
    least = clean.max() * 10 ** (-_RANGE / 10)
    return 10 * np.log10(np.maximum(clean, least)), 10 * np.log10(np.maximum(enhanced, least))
