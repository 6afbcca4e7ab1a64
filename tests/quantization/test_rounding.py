"""Rounding gives what integers hold, and the gradients that its formula has, written out."""

import math

import pytest
import torch

from gtcrn.quantization.rounding import FakeQuantize, rescaled, round_straight_through


def written_out(x, scale, zero, low, high):
    zero = round_straight_through(zero)
    return round_straight_through(x / scale).clamp(low - zero, high - zero) * scale


@pytest.mark.parametrize("zero", [-128.0, 3.4, 100.0])
@pytest.mark.parametrize("limits", [(-128, 127), (-32768, 32767)])
def test_equals_the_formula(zero, limits):
    torch.manual_seed(0)
    parameters = torch.randn(50, 7), torch.tensor([0.01]), torch.tensor([zero])
    for parameter in parameters:
        parameter.requires_grad_()
    gradient = torch.randn(50, 7)
    found, expected = (function(*parameters, *limits) for function in (FakeQuantize.apply, written_out))
    torch.testing.assert_close(found, expected)
    for own, other in zip(*(torch.autograd.grad(y, parameters, gradient) for y in (found, expected))):
        torch.testing.assert_close(own, other, atol=1e-3, rtol=1e-4)


def test_whole_numbers_and_the_gradient_of_none():
    x = torch.tensor([0.4, 1.6], requires_grad=True)
    y = round_straight_through(x)
    y.sum().backward()
    assert y.tolist() == [0, 2] and x.grad.tolist() == [1, 1]


def by_the_kernel(x, multiplier):
    """With integers of 64 bits alone, as gemmlowp's SaturatingRoundingDoublingHighMul and RoundingDivideByPOT."""
    mantissa, exponent = math.frexp(multiplier)
    product = (x << max(exponent, 0)) * round(mantissa * 2**31)
    nudged = product + (2**30 if product >= 0 else 1 - 2**30)
    high = abs(nudged) // 2**31 * (1 if nudged >= 0 else -1)
    mask = (1 << max(-exponent, 0)) - 1
    return (high >> max(-exponent, 0)) + ((high & mask) > (mask >> 1) + (high < 0))


@pytest.mark.parametrize("multiplier", [0.25, 0.5, 0.2, 0.013, 0.3071, 0.97, 1.0, 3.2])
def test_rescaled_rounds_twice_as_kernels_do(multiplier):
    steps = range(-2000, 2000)
    found = rescaled(torch.tensor(steps, dtype=torch.float32), multiplier)
    assert found.tolist() == [by_the_kernel(x, multiplier) for x in steps]


def test_rescaled_is_not_the_nearest():
    assert rescaled(torch.tensor([-7.0]), 0.2).item() == -2  # not -1.4 but -5.6, so -6, of which a quarter is -1.5
