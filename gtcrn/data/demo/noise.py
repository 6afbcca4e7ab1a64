"""Noises of several kinds, made from random numbers (and babble from voices).

Each is a function (rng, frames, sample_rate) -> (frames,) of arbitrary level.
"""

from collections.abc import Callable
from functools import partial

import numpy as np

from gtcrn.data.demo.sentences import SENTENCES
from gtcrn.data.demo.speech import CROWD, utterance

Rng = np.random.Generator


def coloured(rng: Rng, frames: int, sample_rate: int, slope: float) -> np.ndarray:
    """Make Gaussian noise of RMS 1 with power density 1/f^slope above 30 Hz: 0 white, 1 pink, 2 brown, -1 blue."""
    spectrum = np.fft.rfft(rng.standard_normal(frames))
    frequency = np.maximum(np.fft.rfftfreq(frames, 1 / sample_rate), 30.0)
    return _unit(np.fft.irfft(spectrum * frequency ** (-slope / 2), frames))


def hum(rng: Rng, frames: int, sample_rate: int, mains: float, tilt: float) -> np.ndarray:
    """Make harmonics of the mains frequency (Hz), the k-th of amplitude k^-tilt, above a soft noise floor."""
    pitch = np.full(frames, mains * rng.uniform(0.998, 1.002))
    return _harmonics(rng, pitch, sample_rate, tilt) + 0.05 * coloured(rng, frames, sample_rate, 1)


def fan(rng: Rng, frames: int, sample_rate: int) -> np.ndarray:
    """Make a rush of air that beats with the blades."""
    time = np.arange(frames) / sample_rate
    blades = rng.uniform(8, 25)
    beat = 1 + rng.uniform(0.1, 0.5) * np.sin(2 * np.pi * (blades * time + rng.uniform()))
    return beat * coloured(rng, frames, sample_rate, rng.uniform(0.7, 1.6))


def wind(rng: Rng, frames: int, sample_rate: int) -> np.ndarray:
    """Make a low rumble that swells and falls within a second or so."""
    gusts = _swell(rng, frames, sample_rate, per_second=1.0, depth=3.0)
    return gusts * coloured(rng, frames, sample_rate, rng.uniform(1.4, 2))


def steam(rng: Rng, frames: int, sample_rate: int) -> np.ndarray:
    """Make a slowly changing high hiss."""
    pressure = _swell(rng, frames, sample_rate, per_second=0.7, depth=1.0)
    return pressure * coloured(rng, frames, sample_rate, rng.uniform(-1, -0.5))


def motor(rng: Rng, frames: int, sample_rate: int, pitch: tuple[float, float]) -> np.ndarray:
    """Make harmonics of a wandering pitch, which is drawn from a range in Hz, with exhaust noise."""
    turning = rng.uniform(*pitch) * _swell(rng, frames, sample_rate, per_second=0.5, depth=0.15)
    exhaust = coloured(rng, frames, sample_rate, 1.6)
    return _harmonics(rng, turning, sample_rate, rng.uniform(0.6, 1)) + 0.5 * exhaust


def babble(rng: Rng, frames: int, sample_rate: int) -> np.ndarray:
    """Make four to seven voices at once, none of which is ever a target."""
    talkers = rng.choice(CROWD, rng.integers(4, 8), replace=False)
    languages = rng.choice(list(SENTENCES), len(talkers))
    return sum(_unit(utterance(rng, t, lang, frames, sample_rate)) for t, lang in zip(talkers, languages))


def strokes(
    rng: Rng,
    frames: int,
    sample_rate: int,
    per_second: tuple[float, float],
    decay: tuple[float, float],
    band: tuple[float, float],
    noisiness: float,
) -> np.ndarray:
    """Make impulsive noise: `per_second` strokes, each of which rings at a pitch in `band` (Hz) for `decay` seconds.

    Each of the three is a range that is drawn from. noisiness: share of noise in a stroke's sound; 1 is a click, 0 a
    pure ring. Under the strokes is a soft noise floor.
    """
    wave = 0.02 * coloured(rng, frames, sample_rate, 1)
    for start in rng.integers(frames, size=max(1, round(rng.uniform(*per_second) * frames / sample_rate))):
        length = rng.uniform(*decay)
        time = np.arange(min(frames - start, int(6 * length * sample_rate))) / sample_rate
        ring = np.sin(2 * np.pi * rng.uniform(*band) * time) * (1 - noisiness)
        burst = rng.standard_normal(len(time)) * noisiness
        wave[start : start + len(time)] += rng.uniform(0.3, 1) * (ring + burst) * np.exp(-time / length)
    return wave


NOISES: dict[str, dict[str, Callable[[Rng, int, int], np.ndarray]]] = {  # no kind is in two splits
    "train": {
        "white": partial(coloured, slope=0),
        "pink": partial(coloured, slope=1),
        "fan": fan,
        "hum": partial(hum, mains=50, tilt=0.8),
        "babble": babble,
        "clicks": partial(strokes, per_second=(4, 15), decay=(0.001, 0.006), band=(1000, 4000), noisiness=0.9),
        "knocks": partial(strokes, per_second=(2, 6), decay=(0.02, 0.08), band=(120, 700), noisiness=0.2),
    },
    "validation": {
        "brown": partial(coloured, slope=2),
        "buzz": partial(hum, mains=60, tilt=0.3),
        "drips": partial(strokes, per_second=(3, 8), decay=(0.005, 0.02), band=(800, 2500), noisiness=0.1),
    },
    "test": {
        "wind": wind,
        "steam": steam,
        "engine": partial(motor, pitch=(30, 70)),
        "drill": partial(motor, pitch=(120, 280)),
        "rain": partial(strokes, per_second=(300, 900), decay=(0.0005, 0.002), band=(1500, 6000), noisiness=0.7),
        "typing": partial(strokes, per_second=(5, 12), decay=(0.004, 0.015), band=(1500, 3500), noisiness=0.5),
    },
}


def _unit(wave: np.ndarray) -> np.ndarray:
    return wave / np.sqrt(np.mean(wave**2))


def _harmonics(rng: Rng, pitch: np.ndarray, sample_rate: int, tilt: float) -> np.ndarray:
    """Make up to 40 harmonics of a pitch (frames,) in Hz, with random phases and strengths and an RMS of 1."""
    phase = 2 * np.pi * np.cumsum(pitch) / sample_rate
    count = min(40, int(sample_rate / 2 / pitch.max()))
    wave = np.zeros(len(pitch))
    for k in range(1, count + 1):
        wave += rng.uniform(0.3, 1) * k**-tilt * np.sin(k * phase + rng.uniform(0, 2 * np.pi))
    return _unit(wave)


def _swell(rng: Rng, frames: int, sample_rate: int, per_second: float, depth: float) -> np.ndarray:
    """Make a smooth positive curve around 1 with `per_second` new levels a second, from e^(-depth/2) to e^(depth/2)."""
    knots = rng.uniform(-0.5, 0.5, int(frames / sample_rate * per_second) + 3) * depth
    return np.exp(np.interp(np.arange(frames) * per_second / sample_rate, np.arange(len(knots)), knots))
