"""Batch normalisation together with the PReLU behind it: in training two passes forward and two back, else one."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from gtcrn.kernels.choice import arrays, compiled, hooked
from gtcrn.kernels.threads import shared


def normalised(x: Tensor, norm: nn.Module, act: nn.Module) -> Tensor:
    """Return act(norm(x)) of x (B, C, T, F), as those modules give it and with the running statistics they keep.

    A kernel computes it while `norm` takes the statistics of the batch, and without gradients when it does not, for a
    PReLU of one slope, and unless a hook waits for one of the two. Whatever the layers refuse, they refuse themselves.
    """
    usual = isinstance(norm, nn.BatchNorm2d) and norm.affine and norm.track_running_stats and norm.momentum is not None
    one_slope = isinstance(act, nn.PReLU) and act.num_parameters == 1
    if not usual or not one_slope or hooked(norm) or hooked(act) or not compiled(x):
        return act(norm(x))
    if x.ndim != 4 or x.shape[1] != norm.num_features or x.dtype != norm.weight.dtype:
        return act(norm(x))
    if not norm.training and not torch.is_grad_enabled() and x.shape[2] > 1:
        return _scaled(x, norm, act)
    if not norm.training or x.numel() == x.shape[1]:
        return act(norm(x))
    y, mean, variance = _NormPReLU.apply(x, norm.weight, norm.bias, act.weight, norm.eps)
    with torch.no_grad():
        count = x.numel() // x.shape[1]
        norm.num_batches_tracked += 1
        norm.running_mean.lerp_(mean, norm.momentum)
        norm.running_var.lerp_(variance * (count / (count - 1)), norm.momentum)
    return y


def _scaled(x: Tensor, norm: nn.BatchNorm2d, act: nn.PReLU) -> Tensor:
    """Return act(norm(x)) for a norm that takes its running statistics, without gradients."""
    from gtcrn.kernels.compiled.norm import scale_and_shift

    x = x.contiguous()
    y = torch.empty_like(x)
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    scale_and_shift(*arrays(x.flatten(2), scale, norm.bias - norm.running_mean * scale, act.weight, y.flatten(2)))
    return y


class _NormPReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, slope, eps):
        from gtcrn.kernels.compiled.norm import norm_forward

        x = x.contiguous()
        y, mean, variance = torch.empty_like(x), torch.empty_like(weight), torch.empty_like(weight)
        given = *arrays(x.flatten(2), weight, bias, slope), eps, *arrays(y.flatten(2), mean, variance)
        shared(lambda begin, end: norm_forward(*given, begin, end), len(mean))
        ctx.save_for_backward(x, weight, bias, slope, mean, variance)
        ctx.eps = eps
        ctx.mark_non_differentiable(mean, variance)
        return y, mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx, dy, *_):
        from gtcrn.kernels.compiled.norm import norm_backward

        x, *others = ctx.saved_tensors
        dx, dweight, dbias = (torch.empty_like(tensor) for tensor in (x, *others[:2]))
        given = *arrays(dy.contiguous().flatten(2), x.flatten(2), *others), ctx.eps
        given += (*arrays(dx.flatten(2), dweight, dbias),)
        dslope = sum(shared(lambda begin, end: norm_backward(*given, begin, end), len(dbias)))
        return dx, dweight, dbias, x.new_tensor([dslope]), None
