"""Measures of how good a recording of speech is that need no reference."""

from __future__ import annotations

from dataclasses import dataclass
from math import log, log10

import numpy as np
import scipy.fft
from scipy.signal.windows import hann

from gtcrn.data.manifest import AudioFile
from gtcrn.data.mixing import active_frames
from gtcrn.data.preparation.files import blocks

_FRAME = 0.032  # s; frames overlap by half
_BAND = (80, 8000)  # Hz, in which levels are measured: below it is rumble
_WINDOW = 3  # s, in which speech pauses at every frequency, if only between two sounds
_QUIET = 0.1  # share of the frames of a window in which a bin holds noise alone
_DIGITAL_SILENCE = 1e-10  # power; no recording is as quiet as -100 dBFS, so such frames were inserted later
_DROP = 20  # dB; in the recordings that it was chosen on, speech falls by at most 17, and a low-pass by over 50
_LOWEST_EDGE = 2000  # Hz
_FLAT = 1e-3  # largest difference of the samples of a clipped run, relative to the peak
_RUN = 3  # samples, least length of a clipped run; the peak of unclipped speech is shorter


@dataclass(frozen=True)
class Quality:
    """The measures of one recording.

    snr: dB, the power of the frames in which speech is active over the mean noise floor. For steady noise it is right
        to 3 dB up to 20 dB, and too low above, where the faintest speech counts as noise. Of noise that comes and
        goes as fast as speech, such as babble, only the part that never stops is measured.
    clipping: share of the samples in flat runs at the peak. A wave that was resampled after it clipped has no such
        runs, and so is not recognized.
    silence: share of the time in which no speech is active.
    bandwidth: Hz, above which there is next to nothing: half the rate, or the frequency, from 2 kHz on, at which the
        spectrum breaks off.
    """

    snr: float
    clipping: float
    silence: float
    bandwidth: float


def measure(file: AudioFile) -> Quality:
    """Measure the quality of a file. All of it is decoded, in constant memory; of several channels, the first counts.

    Raises UserError if the file is not what its manifest says.
    """
    size = round(_FRAME * file.rate)
    frequencies = scipy.fft.rfftfreq(size, 1 / file.rate)
    band = (frequencies >= _BAND[0]) & (frequencies <= _BAND[1])
    powers, floors, spectrum, flat = [], [], np.zeros(len(frequencies)), 0
    for block in blocks(file):
        wave = block[:, 0]
        flat += _flat_samples(wave, file.peak)
        for window in np.array_split(wave, max(1, round(len(wave) / file.rate / _WINDOW))):
            frames = power_spectra(window, size)
            spectrum += frames.sum(axis=0, dtype=np.float64)
            powers.append(frames[:, band].sum(axis=1))
            floors.append(np.full(len(frames), noise_floor(frames[:, band])))
    snr, silence = _levels(np.concatenate(powers), np.concatenate(floors))
    return Quality(snr, flat / file.frames, silence, _edge(spectrum, frequencies, file.rate))


def power_spectra(wave: np.ndarray, size: int) -> np.ndarray:
    """Return the power spectra (T, size // 2 + 1) of the frames of `size` samples of a wave (N,).

    The bins of a frame add up to its mean square, without its mean.
    """
    window = hann(size, sym=False).astype(np.float32)
    wave = np.pad(wave, (0, max(0, size - len(wave))))
    frames = np.lib.stride_tricks.sliding_window_view(wave, size)[:: size // 2] * window
    return np.abs(scipy.fft.rfft(frames)) ** 2 * (2 / (size * np.sum(window**2)))


def noise_floor(frames: np.ndarray) -> float:
    """Estimate the power of the noise in some seconds of power spectra (T, F).

    In each bin it is the power that a tenth of the frames do not exceed (Stahl et al., Quantile based noise
    estimation, ICASSP 2000). As the power of noise in a bin is distributed exponentially, this is a known share of its
    mean, by which it is divided.
    """
    recorded = frames[frames.sum(axis=1) > _DIGITAL_SILENCE]
    if not len(recorded):
        return 0.0
    return float(np.quantile(recorded, _QUIET, axis=0).sum() / -log(1 - _QUIET))


def _levels(power: np.ndarray, floor: np.ndarray) -> tuple[float, float]:
    """Return the SNR in dB and the share of frames without speech, from the power (T,) and the noise floor (T,)."""
    speech = np.maximum(power - floor, 0)
    active = active_frames(speech)
    noise = max(floor[floor > 0].mean() if floor.any() else 0.0, _DIGITAL_SILENCE)
    level = speech[active].mean() if active.any() else 0.0
    return 10 * log10(max(level, 1e-3 * noise) / noise), float(1 - active.mean())


def _flat_samples(wave: np.ndarray, peak: float) -> int:
    """Count the samples of a wave (N,) that stand in flat runs at the peak."""
    edges = np.flatnonzero(np.diff(np.abs(wave) >= (1 - _FLAT) * peak, prepend=False, append=False))
    runs = edges[1::2] - edges[::2]
    return int(runs[runs >= _RUN].sum())


def _edge(spectrum: np.ndarray, frequencies: np.ndarray, rate: int) -> float:
    """Return the lowest frequency in Hz above which the mean power of a spectrum (F,) is `_DROP` less than below it."""
    total = np.concatenate([[0], np.cumsum(spectrum)])

    def mean(low: np.ndarray, high: np.ndarray) -> np.ndarray:
        first = np.searchsorted(frequencies, low)
        last = np.minimum(np.maximum(np.searchsorted(frequencies, high), first + 1), len(spectrum))
        return (total[last] - total[first]) / (last - first)

    edges = frequencies[(frequencies >= _LOWEST_EDGE) & (frequencies < 0.49 * rate)]
    drop = mean(0.7 * edges, 0.95 * edges) > 10 ** (_DROP / 10) * mean(edges, 1.25 * edges)
    return float(edges[drop][0]) if drop.any() else rate / 2
