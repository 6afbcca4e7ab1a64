"""Two nodes that share a batch compute the same as one process with the whole batch."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).with_name("several_devices.py")


@pytest.fixture
def results(recordings, tmp_path):
    """Return (weights and gradients, items and metrics) of one process, and of each of two."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, SCRIPT, recordings / "vctk_demand_mini", tmp_path, str(port)]
    environment = os.environ | {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    return {
        name: (torch.load(tmp_path / f"{name}.pt"), json.loads((tmp_path / f"{name}.json").read_text()))
        for name in ("1_0", "2_0", "2_1")
    }


def test_two_nodes_equal_one_process(results):
    alone, told = results["1_0"]
    for name in ("2_0", "2_1"):
        shared, theirs = results[name]
        assert theirs["steps"] == told["steps"] == len(alone["gradients"]) == 10
        for ours, gradients in zip(alone["gradients"], shared["gradients"], strict=True):
            for key, gradient in ours.items():
                assert (gradients[key] - gradient).norm() <= 1e-3 * gradient.norm(), key
        for key, weight in alone["weights"].items():
            torch.testing.assert_close(shared["weights"][key], weight, rtol=0, atol=1e-6)
        assert theirs["metrics"] == pytest.approx(told["metrics"], rel=1e-5)
    assert told["metrics"]["val/failures"] == 1 and "val/si_sdr" in told["metrics"]
    assert results["2_0"][1]["metrics"] == results["2_1"][1]["metrics"]
    assert results["2_0"][1]["rank"] == 0 and results["2_1"][1]["rank"] == 1

    # no item is given twice or missed
    whole = [(epoch, sorted(items)) for epoch, items in told["items"]]
    ranks = zip(results["2_0"][1]["items"], results["2_1"][1]["items"], strict=True)
    assert [(epoch, sorted(ours + theirs)) for (epoch, ours), (_, theirs) in ranks] == whole
    assert all(len(set(items)) == 4 for _, items in whole)
