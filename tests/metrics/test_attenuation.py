"""What is taken from speech and from noise is found again in the waves alone."""

import numpy as np
import pytest
import soundfile
from scipy.ndimage import uniform_filter
from scipy.signal import ShortTimeFFT, get_window

from gtcrn.metrics import MetricFailure, WavePair, evaluate_pair, score_pairs
from gtcrn.metrics.attenuation import attenuation, components
from gtcrn.metrics.spectra import spectra

RATE = 16000
NAMES = ["speech_att", "noise_att"]


@pytest.fixture(scope="module")
def pair(recordings):
    folder = recordings / "vctk_demand_mini"
    return [soundfile.read(folder / kind / "p287_003.wav", dtype="float32")[0] for kind in ("clean", "noisy")]


@pytest.mark.parametrize(("speech_gain", "noise_gain"), [(0.5, 0.1), (1, 0.01), (1.2, 0.7), (0.1, 1)])
def test_known_gains_are_found_to_a_hundredth_of_a_decibel(pair, speech_gain, noise_gain):
    clean, noisy = pair
    enhanced = speech_gain * clean + noise_gain * (noisy - clean)
    values, failures = evaluate_pair(clean, enhanced, RATE, NAMES, noisy)
    expected = {"speech_att": -20 * np.log10(speech_gain), "noise_att": -20 * np.log10(noise_gain)}
    assert not failures and values == pytest.approx(expected, abs=0.01)


def test_a_mask_takes_what_it_takes_from_either_by_itself(pair):
    """The known components are those that the mask makes of speech and of noise alone."""
    clean, noisy = (wave.astype(np.float64) for wave in pair)
    transform = ShortTimeFFT(np.sqrt(get_window("hann", 512)), 256, RATE)
    speech, mixture = transform.stft(clean), transform.stft(noisy)
    powers = [uniform_filter(np.abs(part) ** 2, (5, 3)) for part in (speech, mixture - speech)]
    mask = np.maximum(powers[0] / (powers[0] + powers[1]), 0.1)  # Wiener's, as smooth as that of a network
    shadows = [transform.istft(mask * part, k1=len(clean)) for part in (mixture, speech, mixture - speech)]
    found = components(clean, noisy, shadows[0], RATE)

    def true(before: np.ndarray, after: np.ndarray) -> float:
        energies = [np.square(np.abs(spectra(wave, RATE))).sum(axis=1) for wave in (before, after)]
        return attenuation(*(energy[: len(energy) // 8 * 8].reshape(-1, 8).sum(axis=1) for energy in energies))

    assert attenuation(found.speech, found.speech_left) == pytest.approx(true(clean, shadows[1]), abs=0.5)
    assert attenuation(found.noise, found.noise_left) == pytest.approx(true(noisy - clean, shadows[2]), abs=1.5)


def test_added_artefacts_count_as_neither(pair):
    clean, noisy = pair
    artefacts = 0.03 * np.random.default_rng(0).standard_normal(len(clean)).astype(np.float32)
    values, _ = evaluate_pair(clean, noisy + artefacts, RATE, NAMES, noisy)
    assert values == pytest.approx(dict.fromkeys(NAMES, 0), abs=0.5)


def test_noisy_speech_itself_lacks_nothing_and_without_it_there_is_no_score(pair):
    clean, noisy = pair
    pairs = [WavePair("all", clean, clean, noisy), WavePair("finished", clean, clean)]
    scores = score_pairs(pairs, NAMES, RATE, workers=1, progress=False)
    assert scores[["noisy_speech_att", "noisy_noise_att"]].loc[0].tolist() == pytest.approx([0, 0], abs=1e-6)
    assert scores[["enhanced_speech_att", "enhanced_noise_att"]].loc[0].tolist() == pytest.approx([0, 60], abs=1e-6)
    assert scores["failures"].tolist()[1] == "; ".join(f"enhanced_{name}: no noisy signal" for name in NAMES)


def test_where_there_is_no_noise_or_too_little_of_anything_there_is_no_score(pair):
    clean, noisy = pair
    values, failures = evaluate_pair(clean, 0.5 * clean, RATE, NAMES, clean)
    assert failures == {"noise_att": "nothing to be attenuated in the noisy signal"}
    assert values["speech_att"] == pytest.approx(6.02, abs=0.01)
    with pytest.raises(MetricFailure, match="too short"):
        components(clean[:2000], noisy[:2000], noisy[:2000], RATE)
