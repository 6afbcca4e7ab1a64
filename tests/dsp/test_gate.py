"""The spectral gate removes noise from real recordings, harms speech a little, and has no delay."""

import numpy as np
import pytest
import soundfile

from gtcrn.dsp.gate import SpectralGate
from gtcrn.errors import UserError

RATE = 48000


def si_sdr(reference, wave):
    target = (wave @ reference) / (reference @ reference) * reference
    return 10 * np.log10((target @ target) / np.sum((wave - target) ** 2))


@pytest.fixture(scope="module")
def mixtures(recordings):
    """Return pairs (clean, noisy) at 5 dB SNR with each of the two kinds of noise."""
    folder, pairs = recordings / "fullband_mini", []
    for speech, noise in (("p234_003", "ch03_sm001"), ("p234_005", "ch08_sm002"), ("p234_008", "ch08_sm005")):
        clean = soundfile.read(folder / "speech" / f"{speech}.wav", dtype="float32")[0]
        noise = soundfile.read(folder / "noise" / f"{noise}.wav", dtype="float32")[0][: len(clean)]
        noise *= np.sqrt(np.sum(clean**2) / np.sum(noise**2) / 10**0.5)
        pairs.append((clean, clean + noise))
    return pairs


def test_takes_noise_out_of_real_recordings(mixtures):
    gate = SpectralGate(RATE)
    for clean, noisy in mixtures:
        gated = gate(noisy)
        assert gated.shape == noisy.shape and gated.dtype == np.float32
        assert si_sdr(clean, gated) > si_sdr(clean, noisy) + 2
        power_of = [
            np.mean(wave[: len(wave) // 960 * 960].reshape(-1, 960) ** 2, axis=1) for wave in (clean, noisy, gated)
        ]
        pauses = power_of[0] <= np.quantile(power_of[0], 0.1)
        assert 10 * np.log10(power_of[2][pauses].mean() / power_of[1][pauses].mean()) < -10


def test_harms_speech_a_little(mixtures):
    for clean, _ in mixtures:
        assert 10 < si_sdr(clean, SpectralGate(RATE)(clean)) < 25


def test_knobs_do_what_they_say(mixtures):
    noisy = mixtures[0][1]
    energy = lambda **knobs: np.sum(SpectralGate(RATE, **knobs)(noisy) ** 2)  # noqa: E731
    assert energy(threshold_db=15) < energy() < energy(threshold_db=5)
    assert energy(reduction_db=40) < energy() < energy(reduction_db=10)
    np.testing.assert_allclose(SpectralGate(RATE, reduction_db=0)(noisy), noisy, atol=1e-6)
    steps = [
        np.abs(np.diff(SpectralGate(RATE, smoothing_ms=ms, smoothing_hz=hz)._gains(spectrum(noisy)), axis=axis)).mean()
        for ms, hz, axis in ((0, 0, 0), (100, 0, 0), (0, 0, 1), (0, 300, 1))
    ]
    assert steps[1] < 0.5 * steps[0] and steps[3] < 0.5 * steps[2]


def spectrum(wave):
    frames = wave[: len(wave) // 1536 * 1536].reshape(-1, 1536)
    return np.fft.rfft(frames).astype(np.complex64)


@pytest.mark.parametrize("length", [1, 2, 767, 768, 769, 5000])
@pytest.mark.parametrize("rate", [16000, 44100, 48000])
def test_any_length_at_any_rate(mixtures, length, rate):
    wave = mixtures[0][1][50000 : 50000 + length]
    unharmed = SpectralGate(rate, reduction_db=0)(wave)
    np.testing.assert_allclose(unharmed, wave, atol=1e-6)


def test_silence_is_not_the_noise_floor(mixtures):
    """A file filled up with zeros is gated like the file without them."""
    gate, noisy = SpectralGate(RATE), mixtures[1][1]
    silence = np.zeros(125 * gate.hop_length, np.float32)
    filled = gate(np.concatenate([silence, noisy, silence]))[len(silence) : len(silence) + len(noisy)]
    assert si_sdr(gate(noisy), filled) > 30
    assert not gate(silence).any()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_ends_of_a_short_wave_are_not_the_noise_floor(seed):
    noise = 0.1 * np.random.default_rng(seed).standard_normal(4801).astype(np.float32)
    assert np.sum(SpectralGate(RATE)(noise) ** 2) < 0.05 * np.sum(noise**2)


def test_what_makes_no_sense_is_named():
    for key in ("reduction_db", "smoothing_ms", "smoothing_hz"):
        with pytest.raises(UserError, match=f"data.denoiser.{key}=-1: must be 0 or more"):
            SpectralGate(RATE, **{key: -1})
    with pytest.raises(UserError, match="data.denoiser.window_ms=0.1: less than 8 samples at 48000 Hz"):
        SpectralGate(RATE, window_ms=0.1)
