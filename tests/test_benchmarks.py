"""What the long campaign stands on: whose fault it is when a worker ends, and how certain a slope is."""

import os
import sys
import time

import gpu_training
import numpy as np
import pandas as pd
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


@pytest.mark.slow
def test_the_prepared_measurement_of_a_gpu_runs(tmp_path, monkeypatch, capsys):
    table = tmp_path / "table.csv"
    sizes = "--device cpu --batch 2 --seconds 0.25 --steps 2".split()
    forms = "float32; bf16; bf16, CUDA graphs"
    monkeypatch.setattr(sys, "argv", ["gpu_training.py", *sizes, "--forms", forms, "--output", str(table)])
    monkeypatch.setattr(gpu_training.torch, "compile", None)  # which would take minutes
    gpu_training.main()
    measured, said = pd.read_csv(table), capsys.readouterr().out
    assert measured[["model", "form"]].to_numpy().tolist() == [
        ["GTCRN", "float32"], ["GTCRN-Light v3", "float32"], ["GTCRN", "bf16"], ["GTCRN-Light v3", "bf16"],
    ]  # fmt: skip
    assert (measured.filter(regex="/s|, ms|, s") > 0).all(axis=None)
    difference = measured["loss against float32"]
    assert (difference[:2] == 0).all() and difference[2:].between(0, 0.02, inclusive="neither").all()
    assert said.count("\n| GTCRN") == 4 and said.count("left out: GTCRN") == 2
