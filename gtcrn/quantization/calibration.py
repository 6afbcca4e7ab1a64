"""Calibration: recordings from which the quantization ranges are chosen."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from gtcrn.data import audio
from gtcrn.data.shards import audio_files
from gtcrn.dsp.spectra import magnitude_and_parts
from gtcrn.errors import UserError, counted
from gtcrn.models.enhancer import SpectralEnhancer
from gtcrn.quantization.network import BITS, Network, quantize_core

log = logging.getLogger(__name__)

MAX_SECONDS = 60  # of audio that is used
MIN_SECONDS = 10  # of audio that is needed
MAX_FILES = 30  # spread over the folder


class Calibration(NamedTuple):
    """The recordings of a calibration: waves, (N,) float32 each at the model's rate, and their name in a few words."""

    waves: list[np.ndarray]
    name: str


def read_recordings(path: str | Path, sample_rate: int) -> Calibration:
    """Read the first channel of one file, or of files spread over a folder at any depth, at sample_rate (Hz).

    Files that can't be used, silent ones and those at a lower rate among them, are left out with a warning. Raises
    UserError if there is less than `MIN_SECONDS` of audio.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"calibration={path}: no such folder; name one of noisy recordings, as the device will hear")
    files = list(audio_files(path).values()) if path.is_dir() else [path]
    if not files:
        raise UserError(f"calibration={path}: no audio files ({', '.join(audio.SUFFIXES)}) in this folder")
    chosen = [files[i] for i in np.unique(np.linspace(0, len(files) - 1, MAX_FILES).round().astype(int))]
    waves, problems = [], []
    for file in chosen:
        facts = audio.examine(file)
        problem = facts.problem
        if not problem and facts.rate < sample_rate:
            problem = f"{facts.rate} Hz, and the model's rate is {sample_rate} Hz"
        if problem:
            problems.append(f"{file}: {problem}")
            continue
        wave = audio.load(file, sample_rate, frames=MAX_SECONDS * sample_rate)
        waves.append(wave if wave.ndim == 1 else wave[:, 0].copy())
    waves = [wave for wave in _shortened(waves, MAX_SECONDS * sample_rate) if np.ptp(wave) >= 2 * audio.SILENCE]
    seconds = sum(map(len, waves)) / sample_rate
    if seconds < MIN_SECONDS:
        excuse = f"; {counted(len(problems), 'file')} of no use, the first: {problems[0]}" if problems else ""
        raise UserError(
            f"calibration={path}: {seconds:.1f} s of sound, and at least {MIN_SECONDS} s are needed, noisy speech at "
            f"the levels that the device will hear{excuse}"
        )
    for problem in problems:
        log.warning("left out of the calibration: %s", problem)
    return Calibration(waves, f"{seconds:.0f} s of {counted(len(waves), 'file')} of {path.name}")


def _shortened(waves: list[np.ndarray], n_samples: int) -> list[np.ndarray]:
    """Shorten the longest waves, all to about the same length, until all together have at most `n_samples`."""
    shares, left = {}, n_samples
    for number, index in enumerate(sorted(range(len(waves)), key=lambda i: len(waves[i]))):
        shares[index] = min(len(waves[index]), left // (len(waves) - number))
        left -= shares[index]
    return [wave[: shares[i]] for i, wave in enumerate(waves) if shares[i]]


@torch.no_grad()
def network_input(enhancer: SpectralEnhancer, wave: np.ndarray) -> Tensor:
    """Return the ERB bands (1, 3, T, bands) of a wave (N,), which a network in integers takes."""
    return enhancer.core.erb.analysis(magnitude_and_parts(enhancer.spectra(torch.from_numpy(wave)[None])))


def quantize_enhancer(enhancer: SpectralEnhancer, quantize: str, waves: list[np.ndarray]) -> Network:
    """Quantize the enhancer's network after training, with ranges chosen from recordings.

    quantize: a key of `BITS`. waves: (N,) each, none of them silent; where there are 8 bits, they are brought to one
    level first. The range of the input holds a sine of half the full scale. Raises UserError for a model that has no
    form in integers.
    """
    if 8 in BITS[quantize].values():
        waves = _at_one_level(waves)
    input_peak = enhancer.window_length / (2 * np.pi)
    return quantize_core(enhancer.core, quantize, [network_input(enhancer, wave) for wave in waves], input_peak)


def _at_one_level(waves: list[np.ndarray]) -> list[np.ndarray]:
    """Scale each wave to the median of their RMS, or as far as its peak allows.

    Otherwise loud waves alone would choose the ranges, in which soft ones have few steps.
    """
    levels = [np.std(wave) for wave in waves]  # without the offset, which is inaudible
    gains = [min(np.median(levels) / level, 1 / np.abs(wave).max()) for wave, level in zip(waves, levels)]
    return [np.float32(gain) * wave for wave, gain in zip(waves, gains)]
