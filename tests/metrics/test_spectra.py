"""The distances of spectra are those of librosa's own transforms, and look no deeper than 50 dB."""

import librosa
import numpy as np
import pytest
import soundfile

from gtcrn.metrics.spectra import log_spectral_distance, mel_cepstral_distortion

RATE = 16000
STFT = {"n_fft": 512, "hop_length": 256, "center": False}


@pytest.fixture(scope="module")
def pair(recordings):
    return [soundfile.read(recordings / "vctk_demand_mini" / kind / "p287_001.wav")[0] for kind in ("clean", "noisy")]


def test_log_spectral_distance_is_that_of_librosas_spectrograms(pair):
    powers = [np.abs(librosa.stft(wave, **STFT)) ** 2 for wave in pair]
    clean, noisy = (librosa.power_to_db(power, ref=powers[0].max(), amin=1e-20, top_db=None) for power in powers)
    expected = [
        sum((max(a, -50) - max(b, -50)) ** 2 for a, b in zip(*frame)) ** 0.5 / 257**0.5
        for frame in zip(clean.T, noisy.T)
    ]
    assert log_spectral_distance(*pair, RATE) == pytest.approx(np.mean(expected), rel=1e-6)


def test_mel_cepstral_distortion_is_kubichecks_formula_on_librosas_bands(pair):
    powers = [librosa.feature.melspectrogram(y=wave, sr=RATE, n_mels=40, **STFT) for wave in pair]  # (40, T)
    logs = [np.log(np.maximum(power, powers[0].max() * 1e-5)) for power in powers]
    cosines = np.cos(np.pi / 40 * np.outer(np.arange(1, 14), np.arange(40) + 0.5))
    difference = cosines @ (logs[0] - logs[1]) / 40  # (13, T)
    expected = 10 / np.log(10) * np.sqrt(2 * (difference**2).sum(axis=0)).mean()
    assert mel_cepstral_distortion(*pair, RATE) == pytest.approx(expected, rel=1e-6)


def test_a_louder_copy_differs_in_level_and_not_in_its_cepstra():
    impulses = np.zeros(RATE)
    impulses[::100] = 1.0  # a flat comb, of which no band lies 50 dB below another
    impulses += 0.1 * np.random.default_rng(0).standard_normal(RATE)
    assert log_spectral_distance(impulses, 2 * impulses, RATE) == pytest.approx(6.02, abs=0.01)
    assert mel_cepstral_distortion(impulses, 2 * impulses, RATE) == pytest.approx(0, abs=1e-6)


def test_what_nobody_hears_does_not_count(pair):
    clean = pair[0]
    audible = np.abs(clean).max() * np.random.default_rng(0).standard_normal(len(clean))
    for distance in (log_spectral_distance, mel_cepstral_distortion):
        assert distance(clean, clean + 1e-6 * audible, RATE) < 0.05 < distance(clean, clean + 1e-2 * audible, RATE)
