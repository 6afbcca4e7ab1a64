"""Rounding gives what integers hold, and the gradients that its formula has, written out."""

import pytest
import torch

from gtcrn.export.integer.rounding import Rounded, rounded_through


def written_out(x, scale, zero, low, high):
    zero = rounded_through(zero)
    return rounded_through(x / scale).clamp(low - zero, high - zero) * scale


@pytest.mark.parametrize("zero", [-128.0, 3.4, 100.0])
@pytest.mark.parametrize("limits", [(-128, 127), (-32768, 32767)])
def test_equals_the_formula(zero, limits):
    torch.manual_seed(0)
    parameters = torch.randn(50, 7), torch.tensor([0.01]), torch.tensor([zero])
    for parameter in parameters:
        parameter.requires_grad_()
    gradient = torch.randn(50, 7)
    found, expected = (function(*parameters, *limits) for function in (Rounded.apply, written_out))
    torch.testing.assert_close(found, expected)
    for own, other in zip(*(torch.autograd.grad(y, parameters, gradient) for y in (found, expected))):
        torch.testing.assert_close(own, other, atol=1e-3, rtol=1e-4)


def test_whole_numbers_and_the_gradient_of_none():
    x = torch.tensor([0.4, 1.6], requires_grad=True)
    y = rounded_through(x)
    y.sum().backward()
    assert y.tolist() == [0, 2] and x.grad.tolist() == [1, 1]
