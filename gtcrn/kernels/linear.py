"""Linear layers, and layer normalisation, of channels that are not innermost in memory.

Dual-path networks look at a feature map (B, C, T, F) as (B, T, F, C), and GRUs give theirs in yet another order.
PyTorch's layers would first move the channels innermost, where products of so few of them are slow.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from gtcrn.kernels.choice import arrays, compiled
from gtcrn.kernels.threads import shared

SMALLEST = 16384  # numbers; with fewer, PyTorch's layers are faster, although they move the channels first
FEWEST = 256  # places that a thread gets


class Linear(nn.Linear):
    """torch's Linear, (…, C) -> (…, C'), which leaves the dimensions in their order in memory."""

    def forward(self, x: Tensor) -> Tensor:
        rows = _rows(x, self.weight, self.in_features)
        return super().forward(x) if rows is None else _as(x, pointwise(rows, self.weight, self.bias))


class LayerNorm(nn.LayerNorm):
    """torch's LayerNorm over the last dimension, (…, C) -> (…, C), which leaves the dimensions in their order in
    memory."""

    def forward(self, x: Tensor) -> Tensor:
        usual = self.bias is not None and self.weight.dim() == 1
        rows = _rows(x, self.weight, self.weight.numel()) if usual else None
        if rows is None:
            return super().forward(x)
        return _as(x, _LayerNorm.apply(rows.contiguous(), self.weight, self.bias, self.eps))


def pointwise(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return the products of weight (C', C) and x (B, C, S), plus bias (C',)."""
    y = torch.bmm(weight.expand(len(x), *weight.shape), x)
    return y if bias is None else y.add_(bias[:, None])  # not baddbmm, which first writes the bias everywhere


def _rows(x: Tensor, weight: Tensor, channels: int) -> Tensor | None:
    """Return a view (B, C, S) of x (…, C), C not innermost in memory, or None if PyTorch's layer shall compute."""
    if x.numel() < SMALLEST or not compiled(x) or x.dtype != weight.dtype or x.shape[-1] != channels:
        return None
    order = _order(x)
    x, place = x.permute(order), order.index(x.dim() - 1)
    if place > 1 or place == x.dim() - 1 or not x[(0,) * (place + 1)].is_contiguous():
        return None
    return x.flatten(1)[None] if place == 0 else x.flatten(2)


def _as(x: Tensor, rows: Tensor) -> Tensor:
    """Return rows (B, C', S) with the dimensions of x, of which `_rows` made (B, C, S)."""
    order = _order(x)
    shape = [rows.shape[1] if dim == x.dim() - 1 else x.shape[dim] for dim in order]
    return rows.view(shape).permute([order.index(dim) for dim in range(x.dim())])


def _order(x: Tensor) -> list[int]:
    """Return the dimensions of x as they lie in memory, the innermost last."""
    return sorted(range(x.dim()), key=x.stride, reverse=True)


class _LayerNorm(torch.autograd.Function):
    """The kernel with gradients, of x (B, C, S)."""

    @staticmethod
    def forward(ctx, x, weight, bias, eps):
        from gtcrn.kernels.compiled.norm import layer_norm_forward

        y, (mean, inverse) = torch.empty_like(x), x.new_empty(2, len(x), x.shape[2])
        given = *arrays(x, weight, bias), eps, *arrays(y, mean, inverse)
        shared(lambda begin, end: layer_norm_forward(*given, begin, end), x.shape[2], FEWEST)
        ctx.save_for_backward(x, weight, mean, inverse)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, dy):
        from gtcrn.kernels.compiled.norm import layer_norm_backward

        x, weight, mean, inverse = ctx.saved_tensors
        dx = torch.empty_like(x)
        given = arrays(dy.contiguous(), x, weight, mean, inverse, dx)
        sums = sum(shared(lambda begin, end: layer_norm_backward(*given, begin, end), x.shape[2], FEWEST))
        dweight, dbias = torch.from_numpy(sums).to(weight.dtype)
        return dx, dweight, dbias, None
