"""Every measure states whether a higher value is better, and everything that ranks by it follows."""

import numpy as np
import pytest

from gtcrn.errors import UserError
from gtcrn.metrics import METRICS, MetricFailure, WavePair, evaluate_pair, more_is_better, register, score_pairs


def test_directions_are_those_of_the_measures_themselves():
    """Less noise and more speech are better by every measure that is computed here."""
    rng = np.random.default_rng(0)
    clean = rng.normal(0, 0.1, 32000) * np.repeat(rng.uniform(0.1, 1, 20), 1600)
    noise = rng.normal(0, 0.1, 32000)
    names = [name for name in METRICS if not METRICS[name].extra]
    noisy = clean + 2 * noise
    better, worse = (
        evaluate_pair(clean, gain * clean + level * noise, 16000, names, noisy) for gain, level in ((1, 0.1), (0.9, 1))
    )
    assert not better.failures and not worse.failures
    for name in names:
        gain = METRICS[name].goodness(better.values[name] - worse.values[name])
        assert gain > 0, f"{name}: {worse.values[name]} -> {better.values[name]}"
        assert more_is_better(name) == (better.values[name] > worse.values[name])


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("val/pesq_wb", True),
        ("best.val/si_sdr", True),
        ("test.enhanced_llr", False),
        ("test/noisy_wss", False),
        ("test.improvement_llr", True),
        ("test.enhanced_noise_att", True),
        ("test.enhanced_speech_att", False),
        ("val/snr", True),
        ("best.val/loss", False),
        ("train/loss_magnitude", False),
        ("val/failures", False),
        ("cost.mmacs_exact", False),
    ],
)
def test_directions_by_the_names_of_logs_and_summaries(name, more):
    assert more_is_better(name) == more


def peak_error(clean, enhanced, sample_rate):
    if np.abs(enhanced).max() > 1:
        raise MetricFailure("clipped")
    return abs(np.abs(clean).max() - np.abs(enhanced).max())


def test_one_call_registers_a_measure_with_unit_range_and_direction(registries):
    register("peak_error", label="peak error", unit="FS", range="0 to 1", more_is_better=False, digits=3)(peak_error)
    assert METRICS["peak_error"].label == "peak error FS"
    assert METRICS["peak_error"].described == "peak error FS; 0 to 1, less is better"
    assert not more_is_better("val/peak_error") and more_is_better("test.improvement_peak_error")
    clean = np.array([0.5, -0.25, 0.125], np.float32)
    values, failures = evaluate_pair(clean, 0.5 * clean, 8000, ["si_sdr", "peak_error"])
    assert values["peak_error"] == 0.25 and not failures
    assert evaluate_pair(clean, 4 * clean, 8000, ["peak_error"]).failures == {"peak_error": "clipped"}
    assert evaluate_pair(None, clean, 8000, ["peak_error"]).failures == {"peak_error": "no clean reference"}


def test_a_registered_measure_may_need_no_reference(registries):
    level = register("level", label="level", range="0 to 1", more_is_better=True, reference=False)
    level(lambda clean, enhanced, sample_rate: np.abs(enhanced).max() if clean is None else np.nan)
    assert evaluate_pair(None, np.array([0.5, -0.25]), 8000, ["level"]).values == {"level": 0.5}


def test_processes_that_score_know_registered_measures(registries):
    register("peak_error", label="peak error", range="0 to 1", more_is_better=False)(peak_error)
    wave = np.array([0.5, -0.25], np.float32)
    pairs = [WavePair(str(number), wave, wave / 2, wave) for number in range(2)]
    scores = score_pairs(pairs, ["peak_error"], 8000, workers=2, progress=False)
    assert scores["enhanced_peak_error"].tolist() == [0.25, 0.25] and scores["noisy_peak_error"].tolist() == [0, 0]


@pytest.mark.parametrize(
    ("name", "function", "message"),
    [
        ("pesq_wb", peak_error, "'pesq_wb': there is one of this name already"),
        ("my metric", peak_error, "'my metric': must be a word"),
        ("noisy_level", peak_error, "'noisy_level': must be a word"),
        ("peak_error", lambda clean, enhanced: 0.0, "'peak_error' fails on a second of noise: TypeError: "),
        ("peak_error", lambda clean, enhanced, sample_rate: None, "'peak_error' fails on a second of noise: TypeError"),
    ],
)
def test_what_can_not_be_registered(registries, name, function, message):
    with pytest.raises(UserError, match=message):
        register(name, label="x", range="0 to 1", more_is_better=True)(function)
    assert METRICS.get(name) is None or METRICS[name].function is None


@pytest.mark.parametrize(("value", "reason"), [("nan", "is nan"), ("inf", "is inf"), ("x\ny", "ValueError: could not")])
def test_a_pair_that_a_registered_measure_can_not_score_counts_as_a_failure(registries, value, reason):
    """On the noise of its registration it has a value."""
    register("fragile", label="x", range="0 to 1", more_is_better=True)(
        lambda clean, enhanced, rate: 1.0 if len(clean) == 16000 else float(value)
    )
    scores = evaluate_pair(np.ones(100), np.ones(100), 16000, ["fragile"])
    assert np.isnan(scores.values["fragile"]) and scores.failures["fragile"].startswith(reason)
    assert "\n" not in scores.failures["fragile"]
