"""Real recordings for quantizers: some to choose ranges by, another to judge by."""

import numpy as np
import pytest

from gtcrn.data import audio


@pytest.fixture(scope="session")
def calibration(recordings) -> list[np.ndarray]:
    """Nine utterances in as many noises at 5 dB, (N,) float32 each at 16 kHz: with one noise alone, ranges are poor."""
    speech, noises = (sorted((recordings / "fullband_mini" / kind).glob("*.*")) for kind in ("speech", "noise"))
    return [_mixture(audio.load(talk, 16000), audio.load(noise, 16000)) for talk, noise in zip(speech, noises)]


def _mixture(talk: np.ndarray, noise: np.ndarray) -> np.ndarray:
    noise = np.resize(noise, len(talk))
    mixture = talk + noise * np.sqrt(np.mean(talk**2) / np.mean(noise**2) / 10**0.5)
    return (0.5 * mixture / np.abs(mixture).max()).astype(np.float32)


@pytest.fixture(scope="session")
def heard(noisy) -> np.ndarray:
    """(N,), nothing of which is in `calibration`."""
    return noisy[: 2 * 16000]
