"""The delay of a denoiser, measured from its output for speech, and its removal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import scipy.fft

from gtcrn.errors import UserError

Denoise = Callable[[np.ndarray], np.ndarray]

WHITENING = 0.7  # exponent; see `delay_of`
_SILENCE = 1e-4  # of full scale


class Aligned:
    """A denoiser without its delay: every sample of its output is aligned with that of the input, to the wave's end.

    denoise: the denoiser. probes: at least two waves of speech, (N,) float32, of a second or more, from which
        its delay is measured. max_delay: samples; a longer delay, in either direction, is an error.

    The attribute `delay` is the number of samples by which the output of `denoise` is late; negative if it is early.

    Raises UserError if most probes disagree or are fewer than two, the delay is too long, or an output is silent,
    not finite or of another length.
    """

    def __init__(self, denoise: Denoise, probes: Sequence[np.ndarray], max_delay: int):
        self.denoise = denoise
        delays = [delay_of(denoise, probe) for probe in probes]
        if len(delays) < 2:
            raise UserError("data.denoiser: its delay is measured from at least two waves of speech; give more files")
        self.delay, votes = Counter(delays).most_common(1)[0]
        if 2 * votes <= len(delays):
            raise UserError(
                f"data.denoiser: its delay can't be measured, {len(delays)} waves of speech give {sorted(set(delays))} "
                "samples; its output is too different from its input, or its delay is not constant"
            )
        if abs(self.delay) > max_delay:
            raise UserError(
                f"data.denoiser: its output is late by {self.delay} samples, more than max_delay={max_delay}"
            )

    def __call__(self, wave: np.ndarray) -> np.ndarray:
        late, early = max(self.delay, 0), max(-self.delay, 0)
        return self.denoise(np.pad(wave, (early, late)))[late : late + len(wave)]


def delay_of(denoise: Denoise, wave: np.ndarray) -> int:
    """Return the number of samples by which the denoised wave (N,) is late; negative if it is early.

    It is the lag with the largest cross-correlation, of either sign, partly whitened. Without whitening (exponent 0)
    the few strong low frequencies decide, and a filter that turns their phase moves the maximum; with full whitening
    (1, GCC-PHAT) bands that the denoiser has emptied count as much as speech. Raises UserError as `Aligned` does.
    """
    denoised = denoise(wave)
    if denoised.shape != wave.shape:
        raise UserError(f"data.denoiser: gives {denoised.shape} for {wave.shape} samples; it must keep the length")
    if not np.isfinite(denoised).all():
        raise UserError("data.denoiser: gives samples that are not finite numbers for real speech")
    for name, signal in (("given", wave), ("output", denoised)):
        if np.abs(signal).max(initial=0) < _SILENCE:
            raise UserError(f"data.denoiser: the {name} wave that its delay is measured from is silent")
    length = scipy.fft.next_fast_len(2 * len(wave), real=True)
    before, after = (scipy.fft.rfft(signal.astype(np.float64), length) for signal in (wave, denoised))
    cross = after * before.conj()
    strength = np.abs(cross)
    cross /= np.maximum(strength, 1e-9 * strength.max()) ** WHITENING
    lag = int(np.argmax(np.abs(scipy.fft.irfft(cross, length))))
    return lag if lag < len(wave) else lag - length
