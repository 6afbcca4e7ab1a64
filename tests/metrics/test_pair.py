"""Measures of one pair: published conventions, hand-made cases, and everything that has no score."""

import math

import numpy as np
import pytest
import torch
from torchmetrics.functional.audio import scale_invariant_signal_distortion_ratio, scale_invariant_signal_noise_ratio

from gtcrn.errors import UserError
from gtcrn.metrics import DEFAULT_METRICS, DNSMOS_METRICS, METRICS, evaluate_pair
from gtcrn.metrics.composite import (
    _levinson_durbin,
    composite,
    log_likelihood_ratio,
    segmental_snr,
    weighted_spectral_slope,
)

RATE = 16000


@pytest.fixture(scope="module")
def pair(recordings):
    import soundfile

    return tuple(
        soundfile.read(recordings / "vctk_demand_mini" / kind / "p287_001.wav", dtype="float32")[0]
        for kind in ("clean", "noisy")
    )


def noise(seed: int, length: int = 2 * RATE) -> np.ndarray:
    return 0.1 * np.random.default_rng(seed).standard_normal(length)


def test_frame_wise_distances(pair):
    """The expected values are those of a public Python port of Loizou's composite.m."""
    clean, noisy = (wave.astype(np.float64) for wave in pair)
    assert log_likelihood_ratio(clean, noisy, RATE) == pytest.approx(0.87354147, abs=1e-7)
    assert weighted_spectral_slope(clean, noisy, RATE) == pytest.approx(48.22482497, abs=1e-6)
    assert segmental_snr(clean, noisy, RATE) == pytest.approx(1.95867192, abs=1e-7)


def test_composite_is_linear_within_one_and_five():
    assert composite(pesq=3.0, llr=0.5, wss=30.0, segsnr=8.0) == pytest.approx((4.1175, 3.362, 3.543))
    assert composite(pesq=4.5, llr=0, wss=0, segsnr=35) == (5, 5, 5)
    assert composite(pesq=1.0, llr=3, wss=120, segsnr=-10) == (1, 1, 1)


def test_levinson_durbin_solves_the_normal_equations():
    from scipy.linalg import solve_toeplitz

    frame = noise(0, 480)
    correlation = np.array([frame[: 480 - lag] @ frame[lag:] for lag in range(17)])
    expected = -solve_toeplitz(correlation[:-1], correlation[1:])
    np.testing.assert_allclose(_levinson_durbin(correlation[None])[0, 1:], expected, atol=1e-12)


def test_scale_invariant_ratios():
    clean, other = noise(0), noise(1)
    clean, other = clean - clean.mean(), other - other.mean()
    other -= (other @ clean) / (clean @ clean) * clean
    other *= np.linalg.norm(clean) / np.linalg.norm(other) / 10**0.5
    for enhanced in (clean + other, 3 * (clean + other)):
        values, _ = evaluate_pair(clean, enhanced, RATE, ["si_sdr", "si_snr"])
        assert values == pytest.approx({"si_sdr": 10, "si_snr": 10})
    values, _ = evaluate_pair(clean, clean + other + 0.1, RATE, ["si_sdr", "si_snr"])
    assert values["si_snr"] == pytest.approx(10) and values["si_sdr"] < 0


@pytest.mark.parametrize("offset", [0.0, 0.03])
def test_scale_invariant_ratios_are_those_of_torchmetrics(pair, offset):
    clean, noisy = pair[0] + np.float32(offset), pair[1]
    values, _ = evaluate_pair(clean, noisy, RATE, ["si_sdr", "si_snr"])
    clean, noisy = torch.from_numpy(clean).double(), torch.from_numpy(noisy).double()
    assert values["si_sdr"] == pytest.approx(scale_invariant_signal_distortion_ratio(noisy, clean).item(), abs=1e-6)
    assert values["si_snr"] == pytest.approx(scale_invariant_signal_noise_ratio(noisy, clean).item(), abs=1e-6)


def test_segmental_snr_of_uniform_noise():
    clean = np.sqrt(2) * np.sin(2 * np.pi * 1000 / RATE * np.arange(RATE))
    noisy = clean + 0.1 * np.sqrt(2) * np.cos(2 * np.pi * 1000 / RATE * np.arange(RATE))
    assert segmental_snr(clean, noisy, RATE) == pytest.approx(20, abs=0.01)
    assert segmental_snr(clean, -clean, RATE) == pytest.approx(-6.02, abs=0.01)
    assert segmental_snr(clean, clean, RATE) == 35


def test_a_perfect_output_has_finite_scores(pair):
    values, failures = evaluate_pair(pair[0], pair[0], RATE)
    assert not failures and all(map(math.isfinite, values.values()))
    assert values["pesq_wb"] > 4.6 and values["estoi"] == pytest.approx(1) and values["si_sdr"] > 100
    assert values["covl"] == 5 and values["segsnr"] == 35


@pytest.mark.parametrize("rate", [32000, 48000])
def test_higher_rates_score_like_16_khz(pair, rate):
    import soxr

    values, failures = evaluate_pair(*pair, RATE)
    high, high_failures = evaluate_pair(*(soxr.resample(wave, RATE, rate) for wave in pair), rate)
    assert not failures and not high_failures
    assert high["pesq_wb"] == pytest.approx(values["pesq_wb"], abs=0.02)
    assert high["stoi"] == pytest.approx(values["stoi"], abs=0.002)
    assert high["covl"] == pytest.approx(values["covl"], abs=0.05)


def test_8_khz_has_narrowband_scores_only():
    clean = noise(0, 16000)
    values, failures = evaluate_pair(clean, clean + noise(1, 16000), 8000)
    assert math.isfinite(values["pesq_nb"]) and math.isfinite(values["stoi"])
    assert failures["pesq_wb"] == failures["covl"] == "needs at least 16000 Hz"


SILENCE = np.zeros(2 * RATE)
INTRUSIVE = set(DEFAULT_METRICS)
DISTANCES = {"llr", "wss", "lsd", "mcd"}  # of frames, of which few are enough


@pytest.mark.parametrize(
    "clean, enhanced, failing, reason",
    [
        (SILENCE, noise(0), INTRUSIVE, "silent reference"),
        (SILENCE, SILENCE, INTRUSIVE, "silent reference"),
        (noise(0), SILENCE, INTRUSIVE - {"stoi", "estoi", "segsnr", *DISTANCES}, "silent output"),
        (noise(0), noise(0) * np.nan, INTRUSIVE, "not finite"),
        (noise(0) * np.inf, noise(0), INTRUSIVE, "not finite"),
        (noise(0, 0), noise(0, 0), INTRUSIVE, "empty"),
        (noise(0, 100), noise(1, 100), INTRUSIVE - {"si_sdr", "si_snr"}, "too short|1/4 of a second"),
        (noise(0, 3900), noise(1, 3900), INTRUSIVE - {"si_sdr", "si_snr", "segsnr", *DISTANCES}, "too short|1/4 of a"),
        (noise(0, 5000), noise(1, 5000), {"stoi", "estoi"}, "too short"),
        (SILENCE + 1, noise(0), {"si_snr"}, "constant reference"),
    ],
)
def test_no_meaning_is_nan_with_a_reason(clean, enhanced, failing, reason):
    import re

    values, failures = evaluate_pair(clean, enhanced, RATE)
    assert set(failures) == failing
    assert {name for name, value in values.items() if math.isnan(value)} == failing
    assert all(re.search(reason, text) for text in failures.values())


def test_long_files_have_no_pesq_but_all_else(pair):
    """PESQ's reference code crashes the whole process on them."""
    clean, noisy = (np.tile(wave, 45 * RATE // len(wave) + 1) for wave in pair)
    values, failures = evaluate_pair(clean, noisy, RATE, ["pesq_wb", "covl", "si_sdr"])
    assert failures["pesq_wb"].startswith("longer than 40 s") and "covl" in failures
    assert math.isfinite(values["si_sdr"])


def test_dnsmos_needs_no_reference():
    pytest.importorskip("speechmos")
    speech = np.clip(20 * noise(0, 4 * RATE), -2, 2)  # beyond full scale on purpose
    values, failures = evaluate_pair(None, speech, RATE, DNSMOS_METRICS)
    assert not failures and set(values) == set(DNSMOS_METRICS)
    assert all(1 <= value <= 5 for value in values.values())


def test_dnsmos_is_of_16_khz(recordings):
    """A file at 48 kHz has the scores that the package itself gives the same file at 16 kHz."""
    pytest.importorskip("speechmos")
    import soundfile
    import soxr

    wave, _ = soundfile.read(recordings / "vctk_demand_mini" / "noisy" / "p287_001.wav", dtype="float32")
    values, _ = evaluate_pair(None, soxr.resample(wave, RATE, 48000, "VHQ"), 48000, DNSMOS_METRICS)
    expected = dict(dnsmos_sig=3.3337, dnsmos_bak=2.6183, dnsmos_ovrl=2.3682, dnsmos_p808=2.8205)
    assert values == pytest.approx(expected, abs=0.01)
    _, failures = evaluate_pair(None, wave[::2], 8000, DNSMOS_METRICS)
    assert failures == dict.fromkeys(DNSMOS_METRICS, "needs at least 16000 Hz")


def test_without_a_clean_signal_nothing_else_has_a_value():
    values, failures = evaluate_pair(None, noise(0), RATE)
    assert failures == dict.fromkeys(DEFAULT_METRICS, "no clean reference")
    assert all(map(math.isnan, values.values()))


def test_wrong_use_is_named():
    with pytest.raises(UserError, match="'pesk' is unknown"):
        evaluate_pair(noise(0), noise(1), RATE, ["pesk"])
    with pytest.raises(UserError, match="same length"):
        evaluate_pair(noise(0), noise(1, 10), RATE)
    with pytest.raises(UserError, match=r"noisy \(10,\): must be \(N,\) and of the same length"):
        evaluate_pair(noise(0), noise(1), RATE, ["si_sdr"], noisy=noise(2, 10))
    with pytest.raises(UserError, match=r"enhanced \(2, 16000\): must be \(N,\)"):
        evaluate_pair(None, noise(0).reshape(2, -1), RATE)


def test_the_pesq_variant_is_stated():
    assert "P.862.2" in METRICS["pesq_wb"].note and "Corrigendum 2" in METRICS["pesq_wb"].note
