"""Plain layers from tensors."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def linear(weight: Tensor, bias: Tensor | None = None) -> nn.Linear:
    """Return the layer (…, C) -> (…, C') of a weight (C', C) and a bias (C',)."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    layer.weight = nn.Parameter(weight.contiguous())
    if bias is not None:
        layer.bias = nn.Parameter(bias)
    return layer


def convolution(weight: Tensor, bias: Tensor | None = None, **settings) -> nn.Conv2d:
    """Return the layer of a weight (C', C / groups, *kernel) and a bias (C',). settings: stride, padding, groups …"""
    channels = weight.shape[1] * settings.get("groups", 1)
    layer = nn.Conv2d(channels, len(weight), weight.shape[2:], bias=bias is not None, device="meta", **settings)
    layer.weight = nn.Parameter(weight.contiguous())
    if bias is not None:
        layer.bias = nn.Parameter(bias)
    return layer


def ungrouped(conv: nn.Conv2d | nn.ConvTranspose2d) -> Tensor:
    """Return the weight of the same convolution without groups, with zeros between them."""
    taps = conv.weight.flatten(2).unbind(-1)
    full = torch.stack([torch.block_diag(*tap.chunk(conv.groups)) for tap in taps], dim=-1)
    return full.unflatten(-1, conv.kernel_size)


def spread(values: Tensor, positions: Tensor, size: int, fill: float = 0.0) -> Tensor:
    """Return (size, …) with the values (N, …) at their positions and `fill` elsewhere."""
    full = values.new_full((size, *values.shape[1:]), fill)
    full[positions] = values
    return full
