"""Mixtures of speech, noise and a room: their physics and levels, without any files.

    noisy = clean + reverberation + noise        to the rounding of float32

`clean` is the target. `reverberation` is what the room adds to it, zero where the target is the reverberant speech
itself. The SNR is that of the speech in the mixture (clean + reverberation) to the noise.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf, log10, nan

import numpy as np
import scipy.fft
import scipy.signal

from gtcrn.errors import UserError

PEAK = 0.99  # of full scale; a mixture that would exceed it is scaled down as a whole
TARGETS = ("dry", "early", "reverberant")
_FRAME = 0.02  # s
_MARGIN = 10 ** (-15.9 / 10)  # ITU-T P.56: a frame more than 15.9 dB below the active level is a pause


@dataclass(frozen=True)
class Recipe:
    """The recipe by which mixtures are made. Values are drawn from ranges [lowest, highest] with equal probability.

    snr: dB, see `active_snr`. level: dBFS, RMS of the mixture.
    reverb: probability that the speech is put into a room.
    target: `dry` (the speech as it arrives on the direct path), `early` (with the first `early_ms` of the
        impulse response after it), `reverberant`, or a mix, e.g. `{dry: 0.5, early: 0.5}`.
    noises: range of the number of noises that are summed.
    noise_speed: range of the factor by which each noise is played faster, and higher.
    coloration: probability that the speech passes a random filter, and the same for each noise; see `coloured`.
    noise_only, clean_only: shares of the items without speech and without noise.
    band_limit: probability that everything above a frequency drawn from `band_limit_hz` is removed.

    Raises UserError if a value is out of range.
    """

    snr: Sequence[float] = (-5.0, 20.0)
    level: Sequence[float] = (-35.0, -15.0)
    reverb: float = 0.3
    target: str | Mapping[str, float] = "early"
    early_ms: float = 100.0
    noises: Sequence[int] = (1, 1)
    noise_speed: Sequence[float] = (1.0, 1.0)
    coloration: float = 0.0
    noise_only: float = 0.0
    clean_only: float = 0.0
    band_limit: float = 0.0
    band_limit_hz: Sequence[float] = (2500.0, 7500.0)

    def __post_init__(self):
        for name in ("snr", "level", "noises", "noise_speed", "band_limit_hz"):
            values = getattr(self, name)
            if not isinstance(values, Sequence) or len(values) != 2 or values[0] > values[1]:
                raise UserError(f"data.recipe.{name}={values}: give [lowest,highest]")
        for name in ("reverb", "coloration", "noise_only", "clean_only", "band_limit"):
            value = getattr(self, name)
            if not isinstance(value, float | int) or not 0 <= value <= 1:
                raise UserError(f"data.recipe.{name}={value}: a probability lies between 0 and 1")
        if self.noise_only + self.clean_only > 1:
            raise UserError(f"data.recipe: noise_only={self.noise_only} and clean_only={self.clean_only} exceed 1")
        if self.noises[0] < 1:
            raise UserError(f"data.recipe.noises={self.noises}: at least 1; for items without noise, clean_only")
        if not 0.1 <= self.noise_speed[0] <= self.noise_speed[1] <= 10:
            raise UserError(f"data.recipe.noise_speed={self.noise_speed}: factors must lie between 0.1 and 10")
        if self.level[1] > 0:
            raise UserError(f"data.recipe.level={self.level}: dBFS, so at most 0")
        if self.early_ms < 0:
            raise UserError(f"data.recipe.early_ms={self.early_ms}: must be 0 or more")
        targets = {self.target: 1} if isinstance(self.target, str) else dict(self.target)
        if unknown := targets.keys() - set(TARGETS):
            raise UserError(f"data.recipe.target={', '.join(unknown)}: takes {', '.join(TARGETS)}, or shares of them")
        if not targets or min(targets.values()) < 0 or sum(targets.values()) <= 0:
            raise UserError(f"data.recipe.target={self.target}: give shares above 0")

    def draw_target(self, rng: np.random.Generator) -> str:
        if isinstance(self.target, str):
            return self.target
        shares = np.array(list(self.target.values()), float)
        return str(rng.choice(list(self.target), p=shares / shares.sum()))


@dataclass(frozen=True)
class Mixture:
    """Waves (N,) float32 with noisy = clean + reverberation + noise.

    snr: dB (inf without noise, -inf without speech). level: dBFS, RMS of noisy. target: see `Recipe`; "" without
    a room. band_limit: Hz; nan for none.
    """

    noisy: np.ndarray
    clean: np.ndarray
    reverberation: np.ndarray
    noise: np.ndarray
    snr: float
    level: float
    target: str = ""
    band_limit: float = nan


def mix(
    speech: np.ndarray | None,
    noises: Sequence[np.ndarray],
    rir: np.ndarray | None,
    sample_rate: int,
    recipe: Recipe,
    rng: np.random.Generator,
) -> Mixture:
    """Mix speech (N,), noises (N,) each and a room impulse response (K,), at `sample_rate` Hz.

    Without speech (None) the mixture is noise only, without noises speech only; one of them must be given. The inputs
    must have no offset (see `without_offset`).
    """
    snr, level = rng.uniform(*recipe.snr), rng.uniform(*recipe.level)
    target = recipe.draw_target(rng)
    limit = rng.uniform(*recipe.band_limit_hz) if rng.random() < recipe.band_limit else nan
    if recipe.coloration:
        speech = speech if speech is None or rng.random() >= recipe.coloration else coloured(speech, rng)
        noises = [noise if rng.random() >= recipe.coloration else coloured(noise, rng) for noise in noises]

    shape = np.shape(noises[0] if speech is None else speech)
    clean = reverberation = np.zeros(shape, np.float32)
    if speech is not None:
        clean = speech
        if rir is not None:
            clean, reverberation = in_room(speech, rir, target, round(recipe.early_ms * sample_rate / 1000))
    # all noises are equally loud
    noise = sum((noise / max(rms(noise), 1e-8) for noise in noises), np.zeros(shape, np.float32))
    if limit < sample_rate / 2:
        clean, reverberation, noise = (low_pass(wave, limit, sample_rate) for wave in (clean, reverberation, noise))

    wanted = clean + reverberation
    if speech is not None and len(noises):
        noise = noise * 10 ** ((active_snr(wanted, noise, sample_rate) - snr) / 20)
    noisy = wanted + noise
    gain = min(10 ** (level / 20) / max(rms(noisy), 1e-8), PEAK / max(np.abs(noisy).max(), np.abs(clean).max(), 1e-8))
    clean, reverberation, noise = (np.float32(gain) * wave for wave in (clean, reverberation, noise))
    noisy = clean + reverberation + noise
    return Mixture(
        noisy,
        clean,
        reverberation,
        noise,
        snr=-inf if speech is None else snr if len(noises) else inf,
        level=20 * log10(max(rms(noisy), 1e-8)),
        target=target if rir is not None and speech is not None else "",
        band_limit=limit,
    )


def in_room(speech: np.ndarray, rir: np.ndarray, target: str, early: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the target (N,) and what the room adds to it (N,), both aligned with the speech (N,).

    rir: (K,), whose largest sample is the direct path; it becomes 1 at delay 0. early: samples after it that
    belong to the target `early`.
    """
    direct = int(np.abs(rir).argmax())
    rir = (rir / rir[direct])[: direct + len(speech)]
    length = scipy.fft.next_fast_len(len(speech) + len(rir) - 1, real=True)
    spectrum = scipy.fft.rfft(speech, length)

    def convolved(response: np.ndarray) -> np.ndarray:
        wave = scipy.fft.irfft(spectrum * scipy.fft.rfft(response, length), length)
        return wave[direct : direct + len(speech)]

    reverberant = convolved(rir)
    if target == "reverberant":
        return reverberant, np.zeros_like(reverberant)
    clean = speech if target == "dry" else convolved(rir[: direct + 1 + early])
    return clean, reverberant - clean


def low_pass(wave: np.ndarray, limit: float, sample_rate: int) -> np.ndarray:
    """Return a wave (N,) without its content above `limit` Hz; the zero-phase filter is 0 from 5 % above it on."""
    spectrum = scipy.fft.rfft(wave)
    frequency = np.arange(len(spectrum), dtype=np.float32) * (sample_rate / len(wave))
    spectrum *= np.clip((1.05 * limit - frequency) / (0.05 * limit), 0, 1)
    return scipy.fft.irfft(spectrum, len(wave))


def coloured(wave: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return a wave (N,) after a random filter of second order, as another microphone or voice would have coloured it.

    Its four coefficients are drawn from ±3/8 (Valin, A hybrid DSP/deep learning approach to real-time full-band speech
    enhancement, 2018, section 4).
    """
    numerator, denominator = rng.uniform(-3 / 8, 3 / 8, (2, 2))
    return scipy.signal.lfilter([1, *numerator], [1, *denominator], wave).astype(np.float32)


def without_offset(wave: np.ndarray) -> np.ndarray:
    """Return a wave (N,) without its mean, which is inaudible.

    Left in, the offset would count in levels, so that the SNR is another one than asked for; it would take headroom,
    and the model would have to reproduce it.
    """
    return wave - wave.mean(dtype=np.float64).astype(wave.dtype)


def rms(wave: np.ndarray) -> float:
    """Return the root mean square of a wave (N,)."""
    return float(np.sqrt(np.vdot(wave, wave) / len(wave)))


def active(speech: np.ndarray, sample_rate: int) -> np.ndarray:
    """Return where speech (N,) is active, in frames of 20 ms: (N,) bool; see `active_frames`."""
    frame = round(_FRAME * sample_rate)
    padded = np.pad(speech, (0, -len(speech) % frame)).reshape(-1, frame)
    energy = np.einsum("tn,tn->t", padded, padded, dtype=np.float64)
    return np.repeat(active_frames(energy), frame)[: len(speech)]


def active_frames(power: np.ndarray) -> np.ndarray:
    """Return where speech is active, (T,) bool, from the powers of frames (T,); in silence nothing is active.

    As in ITU-T P.56, a frame is active if its level is at most 15.9 dB below the mean level of the active ones.
    """
    threshold = 0.0
    while power.max(initial=0) > threshold:
        raised = _MARGIN * power[power > threshold].mean()
        if raised <= 1.001 * threshold:
            break
        threshold = raised
    return power > threshold


def active_snr(speech: np.ndarray, noise: np.ndarray, sample_rate: int) -> float:
    """Return the SNR 10 log10(sum speech^2 / sum noise^2) in dB of waves (N,), summed where the speech is active.

    Noise that pauses just there is taken to be 30 dB below its mean power, so that its gain stays bounded.
    """
    where = active(speech, sample_rate)
    energy = max(np.sum(noise[where] ** 2, dtype=np.float64), 1e-3 * rms(noise) ** 2 * where.sum())
    return 10 * log10(np.sum(speech[where] ** 2, dtype=np.float64) / energy)
