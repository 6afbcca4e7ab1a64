"""Fake quantization: rounding to integer codes and back, with gradients that train scales and zero points."""

from __future__ import annotations

import math

import torch
from torch import Tensor


class FakeQuantize(torch.autograd.Function):
    """A function that rounds x to codes in [low, high] of a scale and zero point, and converts them back.

    scale, zero: (1,); the zero point is rounded itself. The gradient of x passes where x is within the range; those of
    scale and zero point follow learned step size quantization (Esser et al., 2020). Only two tensors are kept for the
    backward pass; torch's own function takes two to three times as long on a CPU.
    """

    @staticmethod
    def forward(ctx, x: Tensor, scale: Tensor, zero: Tensor, low: int, high: int) -> Tensor:
        step, offset = scale.item(), round(zero.item())
        steps = x * (1 / step)
        rounded = steps.clamp(low - offset, high - offset).round_().mul_(step)
        ctx.save_for_backward(steps, rounded)
        ctx.scale, ctx.limits = step, (low - offset - 0.5, high - offset + 0.5)
        return rounded

    @staticmethod
    def backward(ctx, gradient: Tensor):
        steps, rounded = ctx.saved_tensors
        inside = torch.ops.aten.hardtanh_backward(gradient, steps, *ctx.limits)
        flat = gradient.flatten()
        to_scale = torch.dot(flat, rounded.flatten()) / ctx.scale - torch.dot(inside.flatten(), steps.flatten())
        to_zero = (inside.sum() - flat.sum()) * ctx.scale
        return inside, to_scale.reshape(1), to_zero.reshape(1), None, None


def round_straight_through(x: Tensor) -> Tensor:
    """Round to whole numbers, with the gradient of the identity (straight-through estimator)."""
    return x + (x.round() - x).detach()


def rescaled(steps: Tensor, multiplier: float) -> Tensor:
    """Multiply whole numbers by a multiplier > 0 as LiteRT's kernels do it.

    They multiply by its mantissa of 31 bits and round halves up, then by its power of two and round halves away from
    zero. If that shifts by few bits, the result is often not the nearest.
    """
    mantissa, exponent = math.frexp(multiplier)
    mantissa = round(mantissa * 2**31) / 2**31
    product = (steps.double() * (mantissa * 2.0 ** max(exponent, 0)) + 0.5).floor()
    shifted = product * 2.0 ** min(exponent, 0)
    return (shifted.abs() + 0.5).floor().copysign(shifted).to(steps.dtype)
