"""The kernel gives what torch's BatchNorm2d and PReLU give, and keeps the statistics that they keep."""

import copy

import pytest
import torch
from torch import nn

from gtcrn import kernels
from gtcrn.kernels import norm as module
from gtcrn.kernels import normalised

SHAPES = {"usual": (3, 8, 11, 17), "batch of one": (1, 4, 5, 6), "one frame": (2, 3, 1, 9), "two values": (2, 3, 1, 1)}


def example(shape="usual", dtype=torch.float64, offset=0.0):
    torch.manual_seed(0)
    channels = SHAPES[shape][1]
    layers = nn.ModuleList([nn.BatchNorm2d(channels), nn.PReLU()])
    for parameter in layers[0].parameters():
        nn.init.uniform_(parameter, -1, 1)
    x = torch.randn(SHAPES[shape], dtype=torch.float64) + offset
    return layers.to(dtype), x.to(dtype).requires_grad_()


def outcome(layers, x, choice):
    """Return the output, all gradients, and the statistics afterwards, by name."""
    layers = copy.deepcopy(layers)
    with kernels.use(choice):
        y = normalised(x, *layers)
    inputs = {"x": x} | dict(layers.named_parameters())
    weights = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)
    gradients = torch.autograd.grad((weights * y).sum(), inputs.values())
    return {"y": y} | dict(zip(inputs, gradients)) | dict(layers.named_buffers())


@pytest.fixture
def runs(monkeypatch):
    """Return a list that gets an entry whenever the kernel runs."""
    runs, apply = [], module._NormPReLU.apply
    monkeypatch.setattr(module._NormPReLU, "apply", lambda *args: runs.append(1) or apply(*args))
    return runs


@pytest.mark.parametrize("shape", SHAPES)
def test_equals_torch(shape, runs):
    ours = outcome(*example(shape), "numba")
    assert runs
    theirs = outcome(*example(shape), "torch")
    assert len(runs) == 1
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("offset", [0.0, 30.0])
def test_is_as_precise_as_torch_in_single_precision(offset):
    exact = outcome(*example(offset=offset), "torch")
    ours, theirs = (outcome(*example(dtype=torch.float32, offset=offset), choice) for choice in ("numba", "torch"))
    for name, wanted in exact.items():
        mine, other = (float((result[name].double() - wanted).detach().norm()) for result in (ours, theirs))
        assert mine <= 2 * other + 3e-7 * float(wanted.detach().double().norm()), name


def test_gradients_are_those_of_the_function():
    layers, x = example("two values")
    names, parameters = zip(*layers.named_parameters())

    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = layers

        def forward(self, x):
            return normalised(x, *self.layers)

    def function(x, *parameters):
        return torch.func.functional_call(Both(), {f"layers.{n}": p for n, p in zip(names, parameters)}, (x,))

    x = torch.randn(3, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(function, (x, *parameters))


def test_keeps_statistics_over_many_batches():
    states = []
    for choice in ("numba", "torch"):
        layers, x = example()
        with kernels.use(choice):
            for step in range(5):
                normalised(x * step, *layers)
        states.append(layers.state_dict())
    torch.testing.assert_close(*states)


def test_memory_in_another_order():
    layers, x = example()
    torch.testing.assert_close(
        outcome(layers, x.detach().to(memory_format=torch.channels_last).requires_grad_(), "numba"),
        outcome(layers, x, "numba"),
    )


def frozen(norm, act):
    norm.eval()


def hooked(norm, act):
    act.register_forward_hook(lambda *_: None)


def watched_back(norm, act):
    norm.register_full_backward_hook(lambda *_: None)


@pytest.mark.parametrize("change", [frozen, hooked, watched_back])
def test_the_layers_themselves_run(change, runs):
    layers, x = example()
    before = copy.deepcopy(layers.state_dict())
    change(*layers)
    torch.testing.assert_close(normalised(x, *layers), layers[1](layers[0](x)))
    assert not runs
    assert (change is frozen) == all(torch.equal(value, before[name]) for name, value in layers.state_dict().items())


def test_running_statistics_are_one_scale_and_shift(monkeypatch):
    runs, original = [], module._scaled
    monkeypatch.setattr(module, "_scaled", lambda *args: runs.append(1) or original(*args))
    layers, x = example()
    with kernels.use("numba"), torch.no_grad():
        normalised(x + 1, *layers)  # statistics that are neither 0 nor 1
        layers.eval()
        ours = normalised(x, *layers)
        assert runs
        torch.testing.assert_close(ours, layers[1](layers[0](x)))
        torch.testing.assert_close(normalised(x.transpose(2, 3), *layers), ours.transpose(2, 3))


@pytest.mark.parametrize("settings", [{"affine": False}, {"track_running_stats": False}, {"momentum": None}])
def test_unusual_normalisations_run_themselves(settings, runs):
    x = torch.randn(2, 3, 4, 5)
    normalised(x, nn.BatchNorm2d(3, **settings), nn.PReLU())
    assert not runs


@pytest.mark.parametrize("act", [nn.Tanh(), nn.ReLU(), nn.PReLU(8)])
def test_other_activations_run_themselves(act, runs):
    layers, x = example(dtype=torch.float32)
    layers[1] = act
    normalised(x, *layers)
    assert not runs


def test_a_normalisation_that_was_folded_away_leaves_the_activation():
    x = torch.randn(2, 3, 4, 5)
    assert torch.equal(normalised(x, nn.Identity(), nn.PReLU()), nn.PReLU()(x))


@pytest.mark.parametrize("training", [True, False])
def test_what_torch_refuses_is_refused(training):
    """A kernel would read beyond its parameters, or leave channels as they are, without a word."""
    norm = nn.BatchNorm2d(8).train(training)
    with torch.no_grad():
        for shape in ((2, 6, 4, 5), (2, 16, 4, 5), (2, 8, 5)):
            with pytest.raises((RuntimeError, ValueError), match="elements|4D"):
                normalised(torch.randn(shape), norm, nn.PReLU())


def test_a_single_value_is_refused_as_torch_does():
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        normalised(torch.zeros(1, 3, 1, 1), nn.BatchNorm2d(3), nn.PReLU())
