"""Every measure states whether a higher value is better, and everything that ranks by it follows."""

import numpy as np
import pytest

from gtcrn.metrics import METRICS, evaluate_pair, more_is_better


def test_directions_are_those_of_the_measures_themselves():
    """Less noise is better by every measure that needs a reference."""
    rng = np.random.default_rng(0)
    clean = rng.normal(0, 0.1, 32000) * np.repeat(rng.uniform(0.1, 1, 20), 1600)
    noise = rng.normal(0, 0.1, 32000)
    names = [name for name in METRICS if not name.startswith("dnsmos")]
    better, worse = (evaluate_pair(clean, clean + level * noise, 16000, names) for level in (0.1, 1))
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
        ("val/snr", True),
        ("best.val/loss", False),
        ("train/loss_magnitude", False),
        ("val/failures", False),
        ("cost.mmacs_exact", False),
    ],
)
def test_directions_by_the_names_of_logs_and_summaries(name, more):
    assert more_is_better(name) == more
