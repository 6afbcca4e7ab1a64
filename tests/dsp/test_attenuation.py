"""The limit of attenuation: what it leaves of the noisy signal, and what is no limit."""

import numpy as np
import pytest

from gtcrn.dsp.attenuation import mixed, noisy_share
from gtcrn.errors import UserError


@pytest.mark.parametrize("decibels", [-1, -1e-9, float("nan"), float("-inf"), "12"])
def test_what_is_no_limit(decibels):
    with pytest.raises(UserError, match="^attenuation_limit_db=.*: must be a number of dB from 0, or None") as error:
        noisy_share(decibels)
    assert "\n" not in str(error.value)


def test_what_is_taken_away():
    noise = np.random.default_rng(0).uniform(-1, 1, 1000).astype(np.float32)
    for decibels in (0, 0.5, 12, np.float32(40)):
        left = mixed(noise, np.zeros_like(noise), noisy_share(decibels))
        assert left.dtype == np.float32
        assert 10 * np.log10(np.mean(noise**2) / np.mean(left**2)) == pytest.approx(decibels, abs=1e-5)
    assert noisy_share(None) == noisy_share(float("inf")) == 0
