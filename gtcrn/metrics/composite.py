"""Hu and Loizou's composite measures and the three frame-wise distances that they combine.

Y. Hu and P. C. Loizou, "Evaluation of objective quality measures for speech enhancement", IEEE TASLP
16(1), 2008. The conventions (30 ms Hann frames, a quarter of a frame apart, the last one left out; the best
95 % of the frames for LLR and WSS; eps added to the samples) are those of Loizou's composite.m, by which
published CSIG, CBAK and COVL were computed. composite.m takes the raw P.862 score; the literature on 16 kHz
takes the wideband MOS-LQO instead, and so does this module.

All signals are (N,) float64 in [-1, 1].
"""

from __future__ import annotations

import numpy as np

from gtcrn.metrics.failure import MetricFailure

_EPS = np.finfo(np.float64).eps

# centres and widths of Klatt's 25 critical bands in Hz
_CENTRES = np.array([
    50, 120, 190, 260, 330, 400, 470, 540, 617.372, 703.378, 798.717, 904.128, 1020.38, 1148.30, 1288.72,
    1442.54, 1610.70, 1794.16, 1993.93, 2211.08, 2446.71, 2701.97, 2978.04, 3276.17, 3597.63,
])  # fmt: skip
_WIDTHS = np.array([
    70, 70, 70, 70, 70, 70, 70, 77.3724, 86.0056, 95.3398, 105.411, 116.256, 127.914, 140.423, 153.823,
    168.154, 183.457, 199.776, 217.153, 235.631, 255.255, 276.072, 298.126, 321.465, 346.136,
])  # fmt: skip


def composite(pesq: float, llr: float, wss: float, segsnr: float) -> tuple[float, float, float]:
    """Return CSIG, CBAK and COVL: predicted ratings, 1 to 5, of signal distortion, background and overall quality."""
    csig = 3.093 - 1.029 * llr + 0.603 * pesq - 0.009 * wss
    cbak = 1.634 + 0.478 * pesq - 0.007 * wss + 0.063 * segsnr
    covl = 1.594 + 0.805 * pesq - 0.512 * llr - 0.007 * wss
    csig, cbak, covl = (float(np.clip(rating, 1, 5)) for rating in (csig, cbak, covl))
    return csig, cbak, covl


def segmental_snr(clean: np.ndarray, enhanced: np.ndarray, sample_rate: int) -> float:
    """Return the mean over frames of the SNR in dB, each limited to -10 ... 35.

    Raises MetricFailure if the signal is too short.
    """
    signal = _frames(clean, sample_rate)
    noise = signal - _frames(enhanced, sample_rate)
    ratio = (signal**2).sum(axis=1) / ((noise**2).sum(axis=1) + _EPS)
    return float(np.clip(10 * np.log10(ratio + _EPS), -10, 35).mean())


def log_likelihood_ratio(clean: np.ndarray, enhanced: np.ndarray, sample_rate: int) -> float:
    """Return the LLR, by which the enhanced signal's linear predictor fits the clean signal worse than its own.

    It is the mean over the best 95 % of the frames. Raises MetricFailure if it has no value.
    """
    order = 10 if sample_rate < 10000 else 16
    correlation = _autocorrelation(_frames(clean, sample_rate), order)
    clean_filter = _levinson_durbin(correlation)
    enhanced_filter = _levinson_durbin(_autocorrelation(_frames(enhanced, sample_rate), order))
    lags = np.abs(np.subtract.outer(np.arange(order + 1), np.arange(order + 1)))
    matrix = correlation[:, lags]  # (T, P + 1, P + 1), Toeplitz
    errors = [np.einsum("ti,tij,tj->t", a, matrix, a) for a in (enhanced_filter, clean_filter)]
    with np.errstate(all="ignore"):
        return _mean_of_best(np.log(errors[0] / errors[1]))


def weighted_spectral_slope(clean: np.ndarray, enhanced: np.ndarray, sample_rate: int) -> float:
    """Return the WSS, Klatt's distance of the slopes between neighbouring critical bands.

    It is the mean over the best 95 % of the frames. Raises MetricFailure if it has no value.
    """
    energies = [_band_energies(_frames(wave, sample_rate), sample_rate) for wave in (clean, enhanced)]
    slopes = [np.diff(energy, axis=1) for energy in energies]  # (T, 24)
    weight = np.mean([_slope_weights(energy, slope) for energy, slope in zip(energies, slopes)], axis=0)
    distance = (weight * (slopes[0] - slopes[1]) ** 2).sum(axis=1) / weight.sum(axis=1)
    return _mean_of_best(distance)


def _frames(wave: np.ndarray, sample_rate: int) -> np.ndarray:
    """Return the windowed frames (T, W) of a signal. Raises MetricFailure if there are fewer than two."""
    length = round(0.03 * sample_rate)
    hop = length // 4
    n_frames = (len(wave) - length) // hop  # composite.m leaves out the last frame
    if n_frames < 1:
        raise MetricFailure("too short: under two frames of 30 ms")
    window = 0.5 * (1 - np.cos(2 * np.pi * np.arange(1, length + 1) / (length + 1)))
    return np.lib.stride_tricks.sliding_window_view(wave + _EPS, length)[::hop][:n_frames] * window


def _mean_of_best(distances: np.ndarray) -> float:
    """Return the mean of the lowest 95 % of the distances, without frames of digital silence that have none."""
    distances = np.sort(distances[np.isfinite(distances)])
    if not len(distances):
        raise MetricFailure("no frame has a spectral distance")
    return float(distances[: round(0.95 * len(distances))].mean())


def _autocorrelation(frames: np.ndarray, order: int) -> np.ndarray:
    """Return the autocorrelation (T, P + 1) of frames (T, W), where P is the order."""
    width = frames.shape[1]
    lags = [(frames[:, : width - lag] * frames[:, lag:]).sum(axis=1) for lag in range(order + 1)]
    return np.stack(lags, axis=1)


def _levinson_durbin(correlation: np.ndarray) -> np.ndarray:
    """Return the prediction error filters (T, P + 1), the first coefficient 1, of autocorrelations (T, P + 1)."""
    filters = np.zeros_like(correlation)
    filters[:, 0] = 1
    error = correlation[:, 0].copy()
    with np.errstate(all="ignore"):
        for i in range(1, correlation.shape[1]):
            reflection = -(filters[:, :i] * correlation[:, i:0:-1]).sum(axis=1) / error
            filters[:, 1 : i + 1] += reflection[:, None] * filters[:, i - 1 :: -1][:, :i]
            error *= 1 - reflection**2
    return filters


def _band_energies(frames: np.ndarray, sample_rate: int) -> np.ndarray:
    """Return the energies in dB in the critical bands (T, 25) of frames (T, W)."""
    n_fft = 2 ** int(np.ceil(np.log2(2 * frames.shape[1])))
    n_bins = n_fft // 2  # without the last one, at half the sample rate
    bins_per_hz = n_fft / sample_rate
    distance = np.arange(n_bins) - np.floor(_CENTRES * bins_per_hz)[:, None]
    bands = np.exp(-11 * (distance / (_WIDTHS[:, None] * bins_per_hz)) ** 2) * (_WIDTHS[0] / _WIDTHS[:, None])
    bands[bands <= np.exp(-30 / (2 * 2.303))] = 0  # -30 dB
    power = np.abs(np.fft.rfft(frames, n_fft)[:, :n_bins]) ** 2
    return 10 * np.log10(np.maximum(power @ bands.T, 1e-10))


def _slope_weights(energy: np.ndarray, slope: np.ndarray) -> np.ndarray:
    """Return Klatt's weights (T, 24) of slopes (T, 24) between bands of these energies (T, 25).

    They are larger near the loudest band and near the nearest peak. Uphill the search for the peak goes right and, as
    in composite.m, stops one band before it; downhill it goes left, to the peak itself.
    """
    rising = slope > 0
    peak = energy[:, :-1].copy()
    for band in range(1, peak.shape[1]):
        downhill = ~rising[:, band] & ~rising[:, band - 1]
        peak[downhill, band] = peak[downhill, band - 1]
    for band in range(peak.shape[1] - 2, -1, -1):
        uphill = rising[:, band] & rising[:, band + 1]
        peak[uphill, band] = peak[uphill, band + 1]
    loudest = energy.max(axis=1, keepdims=True)
    energy = energy[:, :-1]
    return 20 / (20 + loudest - energy) / (1 + peak - energy)
