"""The layers give what torch's Linear and LayerNorm give, in whatever order the dimensions lie in memory."""

import pytest
import torch
from torch import nn

from gtcrn import kernels
from gtcrn.kernels import linear as module

ORDERS = {  # of (B, T, F, C) in memory
    "channels first": (3, 2, 1, 0),
    "as a feature map": (0, 3, 1, 2),
    "as a GRU gives it": (3, 1, 0, 2),
}
LAYERS = {
    "linear": lambda: kernels.Linear(7, 5),
    "without bias": lambda: kernels.Linear(7, 9, bias=False),
    "layer norm": lambda: kernels.LayerNorm(7, eps=1e-8),
}


def example(layer, order, dtype=torch.float64):
    torch.manual_seed(0)
    layer, order = LAYERS[layer](), ORDERS[order]
    for parameter in layer.parameters():
        nn.init.uniform_(parameter, -1, 1)
    x = 2 * torch.randn([(3, 19, 17, 7)[dim] for dim in order], dtype=torch.float64) + 1
    return layer.to(dtype), x.permute([order.index(dim) for dim in range(4)]).to(dtype).requires_grad_()


def outcome(layer, x, choice):
    """Return the output and all gradients, by name."""
    with kernels.use(choice):
        y = layer(x)
    inputs = {"x": x} | dict(layer.named_parameters())
    weights = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view(y.shape)
    return {"y": y} | dict(zip(inputs, torch.autograd.grad((weights * y).sum(), inputs.values())))


@pytest.fixture(autouse=True)
def every_size(monkeypatch):
    monkeypatch.setattr(module, "SMALLEST", 0)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("layer", LAYERS)
def test_equals_torch_in_the_order_of_memory(layer, order):
    layer, x = example(layer, order)
    ours, theirs = (outcome(layer, x, choice) for choice in ("numba", "torch"))
    torch.testing.assert_close(ours, theirs)
    assert module._order(ours["y"]) == module._order(x)
    for part in (slice(1, None), slice(None)), (slice(None), slice(3, 9)), (slice(None), slice(None), slice(3)):
        torch.testing.assert_close(layer(x.detach()[part]), ours["y"][part])  # memory with gaps


@pytest.mark.parametrize("layer", ["linear", "layer norm"])
def test_is_as_precise_as_torch_in_single_precision(layer):
    exact = outcome(*example(layer, "as a feature map"), "torch")
    ours, theirs = (outcome(*example(layer, "as a feature map", torch.float32), c) for c in ("numba", "torch"))
    for name, wanted in exact.items():
        mine, other = (float((result[name].double() - wanted).detach().norm()) for result in (ours, theirs))
        assert mine <= 2 * other + 3e-7 * float(wanted.detach().norm()), name


def test_gradients_are_those_of_the_function():
    x = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)
    parameters = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, p: module._LayerNorm.apply(x, *p, 1e-5), (x, parameters))


@pytest.mark.parametrize("settings", [{"elementwise_affine": False}, {"bias": False}])
def test_unusual_normalisations_run_themselves(settings):
    x = torch.randn(2, 7, 50).transpose(1, 2)
    torch.testing.assert_close(kernels.LayerNorm(7, **settings)(x), nn.LayerNorm(7, **settings)(x))


@pytest.mark.parametrize("layer", ["linear", "layer norm"])
def test_what_torch_refuses_is_refused(layer):
    layer = LAYERS[layer]()
    for x in (torch.randn(2, 6, 50).transpose(1, 2), torch.randn(2, 7, 50).double().transpose(1, 2)):
        with pytest.raises(RuntimeError):
            layer(x)
