"""Recordings by which the ranges of integers are chosen."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from gtcrn.data import audio
from gtcrn.data.shards import audio_files
from gtcrn.dsp import magnitude_and_parts
from gtcrn.errors import UserError
from gtcrn.models.enhancer import SpectralEnhancer
from gtcrn.quantization.network import BITS, Network, quantized

log = logging.getLogger(__name__)

SECONDS = 60  # of audio that are used
LEAST = 10  # seconds that are needed
FILES = 30  # at most, spread over the folder


class Calibration(NamedTuple):
    """waves: (N,) float32 each, at the model's rate. name: what they are, in a few words."""

    waves: list[np.ndarray]
    name: str


def recordings(place: str | Path, sample_rate: int) -> Calibration:
    """The first channel of files spread over a folder, searched at any depth, or of one file; resampled if need be.

    Files that are of no use, silent ones and those at a rate below sample_rate (Hz) among them, are named and left
    out. Raises UserError if there is nothing, or less than `LEAST` seconds.
    """
    place = Path(place)
    if not place.exists():
        raise UserError(f"calibration={place}: no such folder; name one of noisy recordings, as the device will hear")
    files = list(audio_files(place).values()) if place.is_dir() else [place]
    if not files:
        raise UserError(f"calibration={place}: no audio files ({', '.join(audio.SUFFIXES)}) in this folder")
    chosen = [files[i] for i in np.unique(np.linspace(0, len(files) - 1, FILES).round().astype(int))]
    waves, problems = [], []
    for path in chosen:
        facts = audio.examine(path)
        problem = facts.problem
        if not problem and facts.rate < sample_rate:
            problem = f"{facts.rate} Hz, and the model's rate is {sample_rate} Hz"
        if problem:
            problems.append(f"{path}: {problem}")
            continue
        wave = audio.load(path, sample_rate, frames=SECONDS * sample_rate)
        waves.append(wave if wave.ndim == 1 else wave[:, 0].copy())
    waves = [wave for wave in _shortened(waves, SECONDS * sample_rate) if np.ptp(wave) >= 2 * audio.SILENCE]
    seconds = sum(map(len, waves)) / sample_rate
    if seconds < LEAST:
        told = f"; {len(problems)} file(s) of no use, the first: {problems[0]}" if problems else ""
        raise UserError(
            f"calibration={place}: {seconds:.1f} s of sound, and at least {LEAST} s are needed, noisy speech at the "
            f"levels that the device will hear{told}"
        )
    for problem in problems:
        log.warning("left out of the calibration: %s", problem)
    return Calibration(waves, f"{seconds:.0f} s of {len(waves)} file(s) of {place.name}")


def _shortened(waves: list[np.ndarray], most: int) -> list[np.ndarray]:
    """All of the short ones, and of the long ones as much as makes `most` samples in all."""
    shares, left = {}, most
    for number, index in enumerate(sorted(range(len(waves)), key=lambda i: len(waves[i]))):
        shares[index] = min(len(waves[index]), left // (len(waves) - number))
        left -= shares[index]
    return [wave[: shares[i]] for i, wave in enumerate(waves) if shares[i]]


@torch.no_grad()
def bands(enhancer: SpectralEnhancer, wave: np.ndarray) -> Tensor:
    """What the integers are given of (N,): (1, 3, T, bands)"""
    return enhancer.core.erb.analysis(magnitude_and_parts(enhancer.spectra(torch.from_numpy(wave)[None])))


def calibrated(enhancer: SpectralEnhancer, quantize: str, waves: list[np.ndarray]) -> Network:
    """The enhancer's network in integers, without training, for `quantize`, a key of `BITS`.

    waves: none silent. The input holds a sine of half the full scale; where there are 8 bits, recordings are heard at
    one level. Raises UserError for a model that has no form in integers.
    """
    if 8 in BITS[quantize].values():
        waves = _at_one_level(waves)
    input_peak = enhancer.window_length / (2 * np.pi)
    return quantized(enhancer.core, quantize, [bands(enhancer, wave) for wave in waves], input_peak)


def _at_one_level(waves: list[np.ndarray]) -> list[np.ndarray]:
    """Each at the median of their rms, or as loud as its peak allows: among several levels the loud ones alone would
    choose ranges in which the soft ones have few steps."""
    levels = [np.std(wave) for wave in waves]  # without the offset, which nobody hears
    gains = [min(np.median(levels) / level, 1 / np.abs(wave).max()) for wave, level in zip(waves, levels)]
    return [np.float32(gain) * wave for wave, gain in zip(waves, gains)]
