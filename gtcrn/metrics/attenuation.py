"""How much is taken from the speech, and how much from the noise: the trade-off that one number of quality hides.

Both components of an enhanced signal are found from the waves alone, of finished audio and of any model. In blocks of
eight windows of 32 ms (144 ms) and 20 mel bands, the enhanced signal is taken to be a * speech + b * noise, where noise
is noisy - clean. The complex gains a and b are those of least squares, as in the decompositions of V. Emiya et al.,
Subjective and objective quality assessment of audio source separation, IEEE TASLP 19(7), 2011; what fits neither, such
as musical noise, counts as neither. The attenuations of the two are then stated in dB over blocks, as in T. Fingscheidt
and S. Suhadi, Quality assessment of speech enhancement systems by separation of enhanced speech, noise, and echo,
Interspeech 2007, who know the components since they filter them apart.

All signals are (N,) float64.
"""

from __future__ import annotations

from typing import NamedTuple

import librosa
import numpy as np

from gtcrn.metrics.failure import MetricFailure
from gtcrn.metrics.spectra import spectra

_FRAMES = 8  # of a block
_BANDS = 20
_HEARD = 30  # dB below the loudest block; what is softer is no speech, or no noise
_LEAST, _MOST = -20, 60  # dB that a block counts
_ADDED = 1e-10  # share of a block's energy that is added to both, so that one without noise or speech has gains too


class Components(NamedTuple):
    """Energies in each block (T,): of speech and noise in the noisy signal, and of what is left in the enhanced."""

    speech: np.ndarray
    speech_left: np.ndarray
    noise: np.ndarray
    noise_left: np.ndarray


def components(clean: np.ndarray, noisy: np.ndarray, enhanced: np.ndarray, sample_rate: int) -> Components:
    """Return the energies of the components of the enhanced signal. Raises MetricFailure if the signal is too short."""
    speech, mixture, output = (spectra(wave, sample_rate) for wave in (clean, noisy, enhanced))
    noise = mixture - speech
    if len(speech) < _FRAMES:
        raise MetricFailure("too short: under a block of 144 ms")
    edges = librosa.mel_frequencies(_BANDS + 1, fmin=0, fmax=sample_rate / 2)
    frequencies = np.linspace(0, sample_rate / 2, speech.shape[1])
    bands = np.digitize(frequencies, edges[1:-1]) == np.arange(_BANDS)[:, None]  # (B, F)
    blocks = len(speech) // _FRAMES

    def product(one: np.ndarray, other: np.ndarray) -> np.ndarray:
        in_bands = (one * other.conj())[: blocks * _FRAMES] @ bands.T
        return in_bands.reshape(blocks, _FRAMES, _BANDS).sum(axis=1)  # (T, B)

    speech_energy, noise_energy = product(speech, speech).real, product(noise, noise).real
    both, in_speech, in_noise = product(speech, noise), product(output, speech), product(output, noise)
    added = _ADDED * (speech_energy + noise_energy) + 1e-30
    a, b = speech_energy + added, noise_energy + added
    determinant = a * b - np.abs(both) ** 2
    speech_gain = (in_speech * b - in_noise * both.conj()) / determinant
    noise_gain = (in_noise * a - in_speech * both) / determinant
    return Components(
        speech_energy.sum(axis=1),
        (np.abs(speech_gain) ** 2 * speech_energy).sum(axis=1),
        noise_energy.sum(axis=1),
        (np.abs(noise_gain) ** 2 * noise_energy).sum(axis=1),
    )


def attenuation(before: np.ndarray, after: np.ndarray) -> float:
    """Return the mean over blocks of the dB by which the energies (T,) became less, negative where they grew.

    A block that lies more than 30 dB below the loudest is left out, and each counts from -20 to 60 dB. Raises
    MetricFailure if there was no energy.
    """
    heard = before > before.max() * 10 ** (-_HEARD / 10)
    if not heard.any():
        raise MetricFailure("nothing to be attenuated in the noisy signal")
    with np.errstate(divide="ignore"):
        lost = 10 * np.log10(before[heard] / after[heard])
    return float(np.clip(lost, _LEAST, _MOST).mean())
