"""Batch normalisation in training together with the PReLU behind it: two passes forward, two back."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from gtcrn.kernels.choice import arrays, compiled, hooked


def normalised(x: Tensor, norm: nn.Module, act: nn.Module) -> Tensor:
    """Return act(norm(x)) of x (B, C, T, F), as those modules give it and with the running statistics they keep.

    A kernel computes it while `norm` takes the statistics of the batch, for a PReLU of one slope, and unless a hook
    waits for one of the two.
    """
    batch_norm = isinstance(norm, nn.BatchNorm2d) and norm.training and x.numel() > x.shape[1]
    one_slope = isinstance(act, nn.PReLU) and act.num_parameters == 1
    if not batch_norm or not one_slope or hooked(norm) or hooked(act) or not compiled(x):
        return act(norm(x))
    y, mean, variance = _NormPReLU.apply(x, norm.weight, norm.bias, act.weight, norm.eps)
    with torch.no_grad():
        count = x.numel() // x.shape[1]
        norm.num_batches_tracked += 1
        norm.running_mean.lerp_(mean, norm.momentum)
        norm.running_var.lerp_(variance * (count / (count - 1)), norm.momentum)
    return y


class _NormPReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, slope, eps):
        from gtcrn.kernels.compiled.norm import norm_forward

        x = x.contiguous()
        y, mean, variance = torch.empty_like(x), torch.empty_like(weight), torch.empty_like(weight)
        norm_forward(*arrays(x.flatten(2), weight, bias, slope), eps, *arrays(y.flatten(2), mean, variance))
        ctx.save_for_backward(x, weight, bias, slope, mean, variance)
        ctx.eps = eps
        ctx.mark_non_differentiable(mean, variance)
        return y, mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx, dy, *_):
        from gtcrn.kernels.compiled.norm import norm_backward

        x, *others = ctx.saved_tensors
        given = arrays(dy.contiguous().flatten(2), x.flatten(2), *others)
        gradients = [torch.empty_like(tensor) for tensor in (x, *others[:3])]
        norm_backward(*given, ctx.eps, *arrays(gradients[0].flatten(2), *gradients[1:]))
        return *gradients, None
