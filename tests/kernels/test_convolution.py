"""The kernels give what torch's convolutions give, and are taken where they are faster."""

import copy

import pytest
import torch
from torch import nn

from gtcrn import kernels
from gtcrn.kernels import convolution as module
from gtcrn.models.gtcrn import SubbandFeatures

BATCH, FRAMES, BINS = 3, 21, 13
# channels in and out, kernel, and settings: those of the models, and others
CONVOLUTIONS = {
    "depthwise": (6, 6, (3, 3), {"groups": 6, "padding": (0, 1)}),
    "dilated": (6, 6, (3, 3), {"groups": 6, "padding": (4, 1), "dilation": (5, 1)}),
    "over time alone": (6, 6, (3, 1), {"groups": 6, "dilation": (4, 1)}),
    "halving": (5, 4, (1, 5), {"stride": (1, 2), "padding": (0, 2)}),
    "halving in groups": (4, 6, (1, 3), {"stride": (1, 2), "padding": (0, 1), "groups": 2}),
    "pointwise": (7, 3, (1, 1), {}),
    "pointwise in groups": (4, 6, (1, 1), {"groups": 2}),
    "every third bin": (4, 6, (2, 4), {"stride": (1, 3), "padding": (1, 2), "groups": 2, "dilation": (3, 1)}),
    "without bias": (3, 3, (1, 3), {"padding": (0, 1), "bias": False}),
}
TRANSPOSED = {
    "pointwise, without bias": (7, 3, (1, 1), {"bias": False}),
    "spread in time": (6, 6, (3, 3), {"groups": 6, "padding": (10, 1), "dilation": (5, 1)}),
}
LAYERS = {name: (kernels.Conv2d, *rest) for name, rest in CONVOLUTIONS.items()}
LAYERS |= {
    f"transposed, {name}": (kernels.ConvTranspose2d, *rest) for name, rest in (CONVOLUTIONS | TRANSPOSED).items()
}


def example(name, dtype=torch.float64):
    layer, inputs, outputs, kernel, settings = LAYERS[name]
    torch.manual_seed(0)
    x = torch.randn(BATCH, inputs, FRAMES, BINS, dtype=torch.float64)
    return layer(inputs, outputs, kernel, **settings).to(dtype), x.to(dtype).requires_grad_()


def outcome(layer, x, choice, call=lambda layer, x: layer(x)):
    """Return the output and all gradients, by name."""
    layer = copy.deepcopy(layer)
    with kernels.use(choice):
        y = call(layer, x)
    inputs = {"x": x} | dict(layer.named_parameters())
    weights = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)
    return {"y": y} | dict(zip(inputs, torch.autograd.grad((weights * y).sum(), inputs.values())))


@pytest.fixture
def runs(monkeypatch):
    """Return a list that gets an entry whenever a kernel runs, or a product of matrices in place of a convolution."""
    runs = []
    for owner, name in ((module._Convolution, "apply"), (module, "_pointwise")):
        original = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *args, original=original: runs.append(1) or original(*args))
    return runs


@pytest.mark.parametrize("name", LAYERS)
def test_equals_torch(name, runs):
    ours = outcome(*example(name), "numba")
    assert runs
    theirs = outcome(*example(name), "torch")
    assert len(runs) == 1
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("block", [1, 300, 1000])
def test_frames_are_computed_in_blocks(block, monkeypatch):
    monkeypatch.setattr(module, "BLOCK", block)
    for name in ("dilated", "halving in groups", "transposed, every third bin"):
        torch.testing.assert_close(outcome(*example(name), "numba"), outcome(*example(name), "torch"))


@pytest.mark.parametrize("name", LAYERS)
def test_is_as_precise_as_torch_in_single_precision(name):
    exact = outcome(*example(name), "torch")
    ours, theirs = (outcome(*example(name, torch.float32), choice) for choice in ("numba", "torch"))
    for name, wanted in exact.items():
        mine, other = (float((result[name].double() - wanted).detach().norm()) for result in (ours, theirs))
        assert mine <= 2 * other + 1e-7 * float(wanted.detach().norm()), name


@pytest.mark.parametrize("name", ["dilated", "halving in groups", "transposed, halving"])
def test_gradients_are_those_of_the_function(name):
    layer, x = example(name)
    x = x[:1, :, : module.SHORTEST].detach().requires_grad_()
    parameters = dict(layer.named_parameters())

    def function(x, *values):
        return torch.func.functional_call(layer, dict(zip(parameters, values)), x)

    with kernels.use("numba"):
        assert torch.autograd.gradcheck(function, (x, *parameters.values()), fast_mode=True)


@pytest.mark.parametrize("layer", [nn.Conv2d, nn.ConvTranspose2d])
def test_neighbours_that_are_stacked_are_taps(layer):
    torch.manual_seed(0)
    pair = nn.ModuleList([SubbandFeatures(), layer(3 * 4, 5, 1)]).double()
    x = torch.randn(BATCH, 4, FRAMES, BINS, dtype=torch.float64, requires_grad=True)

    def both(pair, x):
        return kernels.with_neighbours(x, *pair)

    stacked = []
    stack = pair[0]
    original = stack.forward
    stack.forward = lambda x: stacked.append(1) or original(x)
    ours = outcome(pair, x, "numba", both)
    assert not stacked
    torch.testing.assert_close(ours, outcome(pair, x, "torch", both))
    for part in pair:
        stacked.clear()
        hook = part.register_forward_hook(lambda *_: None)
        outcome(pair, x, "numba", both)
        assert stacked
        hook.remove()


def test_a_view_of_other_memory():
    layer, x = example("depthwise")
    for view in (x.transpose(2, 3), torch.cat([x, x], dim=1)[:, ::2], x[:, :, ::2]):
        torch.testing.assert_close(outcome(layer, view, "numba"), outcome(layer, view, "torch"))


def test_frozen_weights_get_no_gradients():
    layer, x = example("halving")
    layer.requires_grad_(False)
    with kernels.use("numba"):
        layer(x).sum().backward()
    assert x.grad is not None and layer.weight.grad is None and layer.bias.grad is None


def test_same_bits_each_time():
    first, second = (outcome(*example("transposed, halving", torch.float32), "numba") for _ in range(2))
    torch.testing.assert_close(first, second, rtol=0, atol=0)


@pytest.mark.parametrize("layer", [kernels.Conv2d, kernels.ConvTranspose2d])
def test_what_torch_refuses_is_refused(layer, runs):
    """A kernel would read beyond its input, or mix precisions, without a word."""
    conv = layer(8, 4, (1, 3))
    with kernels.use("numba"):
        for x in (torch.randn(1, 4, 20, 9), torch.randn(1, 16, 20, 9), torch.randn(1, 8, 20, 9).double()):
            with pytest.raises(RuntimeError, match="channels|type"):
                conv(x)
        with pytest.raises(RuntimeError, match="channels"):
            kernels.with_neighbours(torch.randn(1, 5, 20, 9), SubbandFeatures(), layer(3 * 4, 4, 1))
    assert not runs


@pytest.mark.parametrize("change", ["few frames", "many taps", "stride in time", "dilated bins", "circular", "output"])
def test_torch_runs_those_that_no_kernel_is_for(change, runs):
    x, settings = torch.randn(2, 4, 20, 9), {"padding": 1}
    layer, inputs = kernels.Conv2d, 4
    if change == "few frames":
        x = x[:, :, : module.SHORTEST - 1]
    elif change == "many taps":
        x, inputs = torch.randn(2, 8, 20, 9), 8
    elif change == "output":
        layer, settings = kernels.ConvTranspose2d, {"stride": (1, 2), "output_padding": (0, 1)}
    else:
        settings |= {
            "stride in time": {"stride": (2, 1)},
            "dilated bins": {"dilation": 2},
            "circular": {"padding_mode": "circular"},
        }[change]
    with kernels.use("numba"):
        layer(inputs, 4, 3, **settings)(x)
    assert not runs
