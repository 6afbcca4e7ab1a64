"""Rounding to integer codes and back, with gradients by which scales and zero points are learnt."""

from __future__ import annotations

import math

import torch
from torch import Tensor


class Rounded(torch.autograd.Function):
    """x as codes of (scale, zero point), limited to [low, high], and back: what integers make of x.

    scale, zero: (1,); the zero point is rounded itself. The gradient of x passes where x is within the range; those of
    scale and zero point are of the learned step size (Esser et al., 2020). Two tensors are kept: torch's own function
    for this takes two to three times as long on a CPU.
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


def rounded_through(x: Tensor) -> Tensor:
    """Rounded to whole numbers; the gradient passes as if it were not."""
    return x + (x.round() - x).detach()


def rescaled(steps: Tensor, multiplier: float) -> Tensor:
    """Whole numbers times a multiplier > 0 as LiteRT's kernels have it: by its mantissa of 31 bits, then by its power
    of two. Both are rounded, halves up and then away from zero: where that shifts few bits, it is often not the
    nearest.
    """
    mantissa, exponent = math.frexp(multiplier)
    mantissa = round(mantissa * 2**31) / 2**31
    product = (steps.double() * (mantissa * 2.0 ** max(exponent, 0)) + 0.5).floor()
    shifted = product * 2.0 ** min(exponent, 0)
    return (shifted.abs() + 0.5).floor().copysign(shifted).to(steps.dtype)
