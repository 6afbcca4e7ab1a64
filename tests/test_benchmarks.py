"""What the long campaign stands on: whose fault it is when a worker ends, and how certain a slope is."""

import os
import time

import numpy as np
import pytest
from children import ACCEPTED, CRASH, HANG, TRACEBACK, campaign, outcomes
from training_memory import slope


def test_a_case_that_ends_or_hangs_its_worker_is_told_and_the_others_go_on():
    assert [verdict for _, *verdict in outcomes(os._exit, [3], workers=1)] == [[CRASH, "exit code 3"]]
    tally = campaign("sleep", time.sleep, [0, 100, "soon", 0], total=4, workers=1, limit=2)
    assert tally.counts == {ACCEPTED: 2, HANG: 1, TRACEBACK: 1}
    assert [case for _, case in tally.faults.values()] == [100, "soon"]


@pytest.mark.parametrize("growth", [0.0, 40.0])
def test_the_slope_of_memory_has_an_error_that_covers_it(growth):
    hours = np.arange(720) / 720
    noise = np.convolve(np.random.default_rng(0).normal(0, 5, 749), np.ones(30) / 30, "valid")  # neighbours are alike
    found = slope(hours, 500 + growth * hours + noise + 300 * np.exp(-hours * 40))
    assert abs(found.growth - growth) < found.error < 20
