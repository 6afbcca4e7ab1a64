"""The spectral gate, a denoiser without training, as audio editors have it."""

from __future__ import annotations

import numpy as np
import scipy.fft
from numpy.lib.stride_tricks import sliding_window_view
from scipy.ndimage import uniform_filter1d

from gtcrn.dsp.window import analysis_window
from gtcrn.errors import UserError

QUIET_SHARE = 0.2  # share of the frames, those with the least energy, that are taken for noise alone
SILENCE = 1e-10  # mean square (-100 dBFS); a frame below it is digital silence and does not show the noise
LOWEST_FLOOR = np.float32(1e-9)  # power of a bin, below that of 16-bit dither


class SpectralGate:
    """A denoiser, (N,) float32 -> (N,) float32, that turns down bins which do not rise above the noise floor.

    It has no delay and no memory from wave to wave. Frames overlap by half under a square-root Hann window. The noise
    floor of a bin is its mean power in the quietest fifth of the signal's own frames, so speech without pauses
    is damaged more than speech with them.

    sample_rate: Hz of the waves.
    window_ms: length of a frame, ms.
    threshold_db: how far above its noise floor a bin is half-way open; 10 dB more opens it to 99 %.
    reduction_db: how far other bins are turned down.
    smoothing_ms, smoothing_hz: the time and frequency over which the gains are averaged; 0 for no averaging.

    Raises UserError if a setting is out of range.
    """

    def __init__(
        self,
        sample_rate: int = 48000,
        window_ms: float = 32.0,
        threshold_db: float = 10.0,
        reduction_db: float = 24.0,
        smoothing_ms: float = 48.0,
        smoothing_hz: float = 100.0,
    ):
        settings = {"reduction_db": reduction_db, "smoothing_ms": smoothing_ms, "smoothing_hz": smoothing_hz}
        for key, value in settings.items():
            if value < 0:
                raise UserError(f"data.denoiser.{key}={value}: must be 0 or more")
        self.hop_length = round(sample_rate * window_ms / 2000)
        if self.hop_length < 4:
            raise UserError(
                f"data.denoiser.window_ms={window_ms}: less than 8 samples at {sample_rate} Hz; 32 is usual"
            )
        self.n_fft = 2 * self.hop_length
        self.window = analysis_window("hann_sqrt", self.n_fft).astype(np.float32)
        self.threshold = 10 ** (threshold_db / 10)
        self.closed = 10 ** (-reduction_db / 20)
        # odd numbers of frames and bins, so that the average is centred on the gain that it replaces
        steps = smoothing_ms * sample_rate / 1000 / self.hop_length, smoothing_hz * self.n_fft / sample_rate
        self.smoothing = [1 + 2 * round((width - 1) / 2) for width in steps]

    def __call__(self, wave: np.ndarray) -> np.ndarray:
        hop, length = self.hop_length, len(wave)
        # the ends are mirrored, as frames that are half zeros would be taken for the quietest
        padded = np.pad(wave, (hop, hop + -length % hop), mode="symmetric")
        spec = scipy.fft.rfft(sliding_window_view(padded, self.n_fft)[::hop] * self.window)  # (T, F)
        frames = scipy.fft.irfft(spec * self._gains(spec), n=self.n_fft) * self.window
        return (frames[:-1, hop:] + frames[1:, :hop]).reshape(-1)[:length]

    def _gains(self, spec: np.ndarray) -> np.ndarray:
        """Return the gains (T, F) of a complex spectrum (T, F), between `-reduction_db` and 0 dB."""
        power = spec.real**2 + spec.imag**2
        ratio = power / (self.threshold * self._noise_floor(power))
        openness = 1 - 1 / (1 + ratio**2)
        for axis, size in enumerate(self.smoothing):
            openness = uniform_filter1d(openness, size, axis=axis, mode="nearest")
        return self.closed + (1 - self.closed) * openness

    def _noise_floor(self, power: np.ndarray) -> np.ndarray | np.floating:
        """Return the mean power (F,) of the quietest frames of (T, F), without those of digital silence."""
        energy = power.sum(axis=1)
        sounding = np.flatnonzero(energy > SILENCE * self.n_fft**2 / 4)  # Parseval: half a spectrum, mean window² 1/2
        if not len(sounding):
            return LOWEST_FLOOR
        by_energy = sounding[np.argsort(energy[sounding], kind="stable")]
        quietest = by_energy[: max(1, round(QUIET_SHARE * len(by_energy)))]
        return np.maximum(power[quietest].mean(axis=0), LOWEST_FLOOR)
