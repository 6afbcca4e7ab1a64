"""The kernel gives what torch.nn.GRU gives; where it can't compute, that one does."""

import multiprocessing

import pytest
import torch
from torch import nn

from gtcrn import kernels
from gtcrn.kernels import GRU
from gtcrn.kernels import gru as module
from gtcrn.kernels.gru import WIDEST

SHAPES = {  # N, L, C, H, both directions
    "along frequency": (9, 33, 8, 4, True),
    "along time": (20, 63, 8, 8, False),
    "attention": (2, 63, 8, 16, False),
    "odd sizes": (7, 12, 9, 9, True),
    "more than a block": (300, 4, 3, 5, True),
    "batch of one": (1, 21, 8, 8, False),
    "two steps": (5, 2, 4, 6, True),
    "tiny": (2, 3, 2, 3, True),
    "widest": (3, 4, 2, WIDEST, False),
}


def example(shape, dtype=torch.float64):
    n, length, channels, units, both = SHAPES[shape]
    torch.manual_seed(0)
    gru = GRU(channels, units, bidirectional=both).to(dtype)
    x = torch.randn(n, length, channels, dtype=dtype, requires_grad=True)
    hidden = torch.randn(1 + both, n, units, dtype=dtype, requires_grad=True)
    return gru, x, hidden


def outcome(gru, x, hidden, choice):
    """Return output, last state and all gradients, by name."""
    with kernels.use(choice):
        y, last = gru(x, hidden)
    inputs = {"x": x, "hidden": hidden} | dict(gru.named_parameters())
    weights = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)
    loss = (weights * y).sum() + (last * last).sum()
    return {"y": y, "last": last} | dict(zip(inputs, torch.autograd.grad(loss, inputs.values())))


def run_by(monkeypatch):
    """Return a list that gets an entry whenever the kernel runs."""
    runs, run = [], module._run
    monkeypatch.setattr(module, "_run", lambda *args, **options: runs.append(1) or run(*args, **options))
    return runs


@pytest.mark.parametrize("shape", SHAPES)
def test_equals_torch(shape, monkeypatch):
    runs = run_by(monkeypatch)
    ours = outcome(*example(shape), "numba")
    assert runs
    theirs = outcome(*example(shape), "torch")
    assert len(runs) == 1
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("shape", SHAPES)
def test_is_as_precise_as_torch_in_single_precision(shape):
    exact = outcome(*example(shape), "torch")
    gru, *tensors = example(shape)
    gru, tensors = gru.float(), [tensor.detach().float().requires_grad_() for tensor in tensors]
    ours, theirs = (outcome(gru, *tensors, choice) for choice in ("numba", "torch"))

    def error(results, names):
        got, wanted = (torch.cat([r[name].detach().double().flatten() for name in names]) for r in (results, exact))
        return float((got - wanted).norm() / wanted.norm())

    for names in (["y", "last"], exact.keys() - {"y", "last"}):
        assert error(ours, names) <= max(2 * error(theirs, names), 3e-7)


def test_gradients_are_those_of_the_function():
    gru, x, hidden = example("tiny")
    names, parameters = zip(*gru.named_parameters())

    def function(x, hidden, *parameters):
        return torch.func.functional_call(gru, dict(zip(names, parameters)), (x, hidden))

    with kernels.use("numba"):
        assert torch.autograd.gradcheck(function, (x, hidden, *parameters))


def test_begins_with_zeros():
    gru, x, hidden = example("odd sizes")
    torch.testing.assert_close(gru(x), gru(x, torch.zeros_like(hidden)))


def test_without_gradients_gives_the_same(monkeypatch):
    gru, x, hidden = example("odd sizes")
    runs = run_by(monkeypatch)
    trained = gru(x, hidden)
    with torch.no_grad():
        torch.testing.assert_close(gru(x, hidden), tuple(trained), rtol=0, atol=0)
    assert len(runs) == 2


def test_sequences_may_stand_in_several_dimensions():
    gru, x, hidden = example("along time")
    folded = x.unflatten(0, (4, 5))
    expected, expected_last = gru(x, hidden)
    for choice in ("numba", "torch"):
        with kernels.use(choice):
            y, last = gru(folded, hidden)
        torch.testing.assert_close(y.flatten(0, 1), expected)
        torch.testing.assert_close(last, expected_last)


def test_frozen_weights_get_no_gradients():
    gru, x, hidden = example("odd sizes")
    gru.weight_hh_l0.requires_grad_(False)
    gru(x, hidden)[0].sum().backward()
    assert [name for name, weight in gru.named_parameters() if weight.grad is None] == ["weight_hh_l0"]


def test_same_bits_each_time():
    first, second = (outcome(*example("more than a block", torch.float32), "numba") for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_not_a_number_spreads():
    gru, x, hidden = example("two steps", torch.float32)
    x = x.detach()
    x[0, 0, 0] = torch.nan
    y = gru(x, hidden)[0]
    assert y[0].isnan().any() and not y[1:].isnan().any()


@pytest.mark.parametrize(
    ("options", "length"), [({"num_layers": 2}, 5), ({"hidden_size": WIDEST + 1}, 5), ({"bidirectional": True}, 1)]
)
def test_torch_runs_those_that_no_kernel_is_for(options, length, monkeypatch):
    runs = run_by(monkeypatch)
    y, last = GRU(**{"input_size": 3, "hidden_size": 4} | options)(torch.randn(2, length, 3))
    assert not runs and y.shape[:2] == (2, length)


def test_a_hook_sees_the_layer_run():
    seen = []
    gru, x, hidden = example("two steps")
    gru.register_forward_hook(lambda layer, inputs, output: seen.append(output[0]))
    assert seen == [] and torch.equal(gru(x, hidden)[0], seen[0])


def test_has_the_parameters_of_torchs():
    ours, theirs = GRU(3, 4, bidirectional=True), nn.GRU(3, 4, bidirectional=True, batch_first=True)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 5, 3)
    torch.testing.assert_close(ours(x), theirs(x))


def in_child(queue):
    gru, x, hidden = example("odd sizes")
    queue.put(float(outcome(gru, x, hidden, "numba")["x"].sum()))


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="this system has no fork")
def test_runs_in_a_forked_process():
    expected = float(outcome(*example("odd sizes"), "numba")["x"].sum())
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    child = context.Process(target=in_child, args=(queue,))
    child.start()
    child.join(120)
    assert child.exitcode == 0 and queue.get() == expected
