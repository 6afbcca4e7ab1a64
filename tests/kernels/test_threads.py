"""Kernels give the same on several threads, also in a process that was forked."""

import multiprocessing
import threading

import pytest
import torch
from torch import nn

from gtcrn import kernels
from gtcrn.kernels.threads import shared


@pytest.fixture
def threads():
    """Set as many threads as it is called with, and afterwards what was set before."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("count", "least", "parts"), [(7, 1, [(0, 2), (2, 4), (4, 7)]), (7, 3, [(0, 3), (3, 7)]), (2, 3, [(0, 2)])]
)
def test_parts_are_computed_on_threads_of_their_own(threads, count, least, parts):
    threads(3)
    meeting = threading.Barrier(len(parts), timeout=60)  # passed only if all of them are there at once
    seen = shared(lambda first, last: (meeting.wait() >= 0 and first, last), count, least)
    assert [(int(first), last) for first, last in seen] == parts


def test_an_error_on_a_thread_is_raised(threads):
    threads(2)
    with pytest.raises(ZeroDivisionError):
        shared(lambda first, last: 1 // (3 - last), 3)


def outcome():
    """Return outputs and gradients of every kernel on real shapes of a model's."""
    torch.manual_seed(0)
    x = torch.randn(5, 6, 40, 9, requires_grad=True)
    layers = nn.ModuleDict(
        {
            "down": kernels.Conv2d(6, 8, (1, 5), stride=(1, 2), padding=(0, 2)),
            "norm": nn.BatchNorm2d(8),
            "act": nn.PReLU(),
            "gru": kernels.GRU(8, 4, bidirectional=True),
            "up": kernels.ConvTranspose2d(8, 3, (1, 5), stride=(1, 2), padding=(0, 2)),
        }
    )
    with kernels.use("numba"):
        y = kernels.normalised(layers["down"](x), layers["norm"], layers["act"])
        y = layers["gru"](y.permute(0, 2, 3, 1))[0]
        y = layers["up"](y.permute(0, 3, 1, 2))
        y.square().sum().backward()
    return {"y": y.detach(), "x": x.grad} | {name: weight.grad for name, weight in layers.named_parameters()}


def test_numbers_of_threads_differ_by_rounding_alone(threads):
    alone = outcome()
    threads(3)
    together, again = outcome(), outcome()
    torch.testing.assert_close(together, again, rtol=0, atol=0)
    alone.pop("down.bias"), together.pop("down.bias")  # which the norm takes away again: noise
    torch.testing.assert_close(together, alone)


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="this system can't fork")
def test_a_forked_process_has_threads_of_its_own(threads):
    threads(2)
    assert len(shared(lambda first, last: last, 2)) == 2  # starts those of this process
    child = multiprocessing.get_context("fork").Process(target=shared, args=(lambda first, last: last, 2))
    child.start()
    child.join(60)
    assert child.exitcode == 0
