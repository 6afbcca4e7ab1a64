"""Convolutions over time and frequency of few channels: depthwise ones, and those of a few taps."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from gtcrn.kernels.choice import arrays, compiled, hooked
from gtcrn.kernels.linear import pointwise
from gtcrn.kernels.threads import shared

SHORTEST = 8  # frames of the output; the few of a stream are left to PyTorch's operators, which have less to prepare
MOST_TAPS = 64  # products per output; from 45 to 80 on, by the shape, PyTorch's operators are as fast, or faster
BLOCK = 6144  # numbers of the frames that are computed together, so that they stay in the innermost cache


class Conv2d(nn.Conv2d):
    """torch's Conv2d, (B, C, T, F) -> (B, C', T', F'), computed by a kernel where one is faster."""

    def forward(self, x: Tensor) -> Tensor:
        if not _fits(self, x, math.prod(self.weight.shape[1:])):
            return super().forward(x)
        if _is_pointwise(self):
            return _pointwise(x, self.weight.flatten(1), self.bias)
        return _Convolution.apply(x, self.weight, self.bias, _taps(self), None)


class ConvTranspose2d(nn.ConvTranspose2d):
    """torch's ConvTranspose2d, (B, C, T, F) -> (B, C', T', F'), computed by a kernel where one is faster."""

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        products = self.in_channels // self.groups * math.prod(self.kernel_size) // self.stride[1]
        if output_size is not None or any(self.output_padding) or not _fits(self, x, products):
            return super().forward(x, output_size)
        if _is_pointwise(self):
            return _pointwise(x, self.weight.flatten(1).T, self.bias)
        bins = (x.shape[3] - 1) * self.stride[1] - 2 * self.padding[1] + self.kernel_size[1]
        return _Convolution.apply(x, self.weight, self.bias, _taps(self), bins)


def with_neighbours(x: Tensor, stack: nn.Module, conv: nn.Conv2d | nn.ConvTranspose2d) -> Tensor:
    """Return conv(stack(x)) of x (B, C, T, F), for a pointwise `conv` and the `stack` of each band with its two
    neighbours, (B, 3C, T, F) ordered (channel, neighbour), as in GTCRN's subband feature extraction (section 2.2).

    Where kernels may compute, it is one convolution of three taps, unless a hook waits for one of the two. That one is
    PyTorch's, which is as fast.
    """
    if hooked(stack) or hooked(conv) or not compiled(x):
        return conv(stack(x))
    weight = conv.weight if isinstance(conv, nn.Conv2d) else conv.weight.transpose(0, 1)  # (C', 3C, 1, 1)
    return F.conv2d(x, weight.reshape(len(weight), -1, 1, 3), conv.bias, padding=(0, 1))


def _fits(conv: nn.Conv2d | nn.ConvTranspose2d, x: Tensor, products: int) -> bool:
    """Return whether a kernel computes it, with so many products per output; what the layer refuses, it refuses."""
    if not compiled(x) or x.ndim != 4 or products > MOST_TAPS:
        return False
    if x.shape[1] != conv.in_channels or x.dtype != conv.weight.dtype:
        return False
    reach = (conv.kernel_size[0] - 1) * conv.dilation[0] - 2 * conv.padding[0]
    frames = x.shape[2] + reach if conv.transposed else x.shape[2] - reach
    return frames >= SHORTEST and conv.stride[0] == conv.dilation[1] == 1 and conv.padding_mode == "zeros"


def _is_pointwise(conv: nn.Conv2d | nn.ConvTranspose2d) -> bool:
    return conv.kernel_size == conv.stride == (1, 1) and conv.groups == 1 and conv.padding == (0, 0)


def _pointwise(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return the products of weight (C', C) and x (B, C, T, F)."""
    return pointwise(x.flatten(2), weight, bias).unflatten(2, x.shape[2:])


class _Taps(NamedTuple):
    """How a convolution of weight (C', C / groups, taps over time, over frequency) gathers (B, C, T, F) into
    (B, C', T', F'), or a transposed one spreads the latter into the former."""

    height: int  # of the kernel, taps over time
    groups: int
    stride: int  # over frequency
    dilation: int  # over time
    padding: tuple[int, int]

    @property
    def reach(self) -> int:
        """Return the frames from the first tap to the last."""
        return (self.height - 1) * self.dilation

    def gather(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Convolve: (B, C, T, F) -> (B, C', T', F')."""
        from gtcrn.kernels.compiled.convolution import convolve

        bins = (x.shape[3] + 2 * self.padding[1] - weight.shape[3]) // self.stride + 1
        y = x.new_empty(len(x), len(weight), x.shape[2] + 2 * self.padding[0] - self.reach, bins)
        place = self._place(x, y, weight)
        rows = weight.reshape(self.groups, len(weight) // self.groups, -1)
        source, rows, bias, target = arrays(x, rows, bias, y)
        how = *place, *self.padding, self.stride, 1, 0
        shared(lambda a, b: convolve(source[a:b], rows, bias, *how, target[a:b]), len(x))
        return y

    def spread(self, y: Tensor, weight: Tensor, bias: Tensor, bins: int) -> Tensor:
        """Convolve transposed: (B, C', T', F') -> (B, C, T, F) of so many bins F."""
        from gtcrn.kernels.compiled.convolution import convolve

        front, cut = self.reach - self.padding[0], self.padding[1]
        inputs, steps = len(weight) // self.groups, -(-weight.shape[3] // self.stride)
        x = y.new_empty(len(y), self.groups * weight.shape[1], y.shape[2] + front - self.padding[0], bins)
        pitch = steps + max((bins - 1 + cut) // self.stride, y.shape[3] - 1)
        frames = self._block(inputs * pitch, x.shape[2])
        # bins of x that are alike modulo the stride make a row, in which every stride-th tap meets every bin of y
        rows = F.pad(weight, (0, steps * self.stride - weight.shape[3]))
        rows = rows.view(self.groups, inputs, weight.shape[1], self.height, steps, self.stride)
        rows = rows.permute(0, 2, 5, 1, 3, 4).reshape(self.groups, weight.shape[1] * self.stride, -1)
        channel, frame, step = np.ogrid[:inputs, : self.height, :steps]
        frame = channel * (frames + self.reach) + self.reach - frame * self.dilation
        place = (frame * pitch + steps - 1 - step).ravel(), pitch, frames, self.reach, front, steps - 1
        source, rows, bias, target = arrays(y, rows, bias, x)
        how = *place, 1, self.stride, cut
        shared(lambda a, b: convolve(source[a:b], rows, bias, *how, target[a:b]), len(x))
        return x

    def correlate(self, x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
        """Return the gradient of weight, for x and the gradient y of what is gathered, or for y and the gradient x of
        what is spread."""
        from gtcrn.kernels.compiled.convolution import correlate

        x, y = arrays(x, y)
        how = *self._place(x, y, weight), *self.padding, self.stride

        def part(first: int, last: int) -> np.ndarray:
            rows = np.zeros((self.groups, len(weight) // self.groups, math.prod(weight.shape[1:])))
            correlate(x[first:last], y[first:last], *how, rows)
            return rows

        return torch.from_numpy(sum(shared(part, len(x)))).view_as(weight).to(weight.dtype)

    def _place(
        self, x: Tensor | np.ndarray, y: Tensor | np.ndarray, weight: Tensor
    ) -> tuple[np.ndarray, int, int, int]:
        """Return where the taps of a row look, how long a frame is, how many are computed together, and the reach."""
        inputs, taps = weight.shape[1], weight.shape[3]
        pitch = max(y.shape[3] + (taps - 1) // self.stride, -(-(x.shape[3] + self.padding[1]) // self.stride))
        frames = self._block(inputs * self.stride * pitch, y.shape[2])
        channel, frame, tap = np.ogrid[:inputs, : self.height, :taps]
        row = channel * self.stride + tap % self.stride
        frame = row * (frames + self.reach) + frame * self.dilation
        return (frame * pitch + tap // self.stride).ravel(), pitch, frames, self.reach

    def _block(self, frame: int, frames: int) -> int:
        return max(1, min(frames, BLOCK // frame - self.reach))


def _taps(conv: nn.Conv2d | nn.ConvTranspose2d) -> _Taps:
    return _Taps(conv.kernel_size[0], conv.groups, conv.stride[1], conv.dilation[0], conv.padding)


class _Convolution(torch.autograd.Function):
    """A convolution, or a transposed one, which gives as many `bins`."""

    @staticmethod
    def forward(ctx, x, weight, bias, taps, bins):
        x = x.contiguous()
        ctx.save_for_backward(x, weight)
        ctx.taps, ctx.transposed = taps, bins is not None
        if bias is None:
            bias = x.new_zeros(len(weight) if bins is None else weight.shape[1] * taps.groups)
        return taps.gather(x, weight, bias) if bins is None else taps.spread(x, weight, bias, bins)

    @staticmethod
    @once_differentiable
    def backward(ctx, dy):
        x, weight = ctx.saved_tensors
        dy = dy.contiguous()
        dx = dweight = None
        if ctx.needs_input_grad[0]:
            none = x.new_zeros(x.shape[1])
            dx = ctx.taps.gather(dy, weight, none) if ctx.transposed else ctx.taps.spread(dy, weight, none, x.shape[3])
        if ctx.needs_input_grad[1]:
            dweight = ctx.taps.correlate(*((dy, x) if ctx.transposed else (x, dy)), weight)
        return dx, dweight, dy.sum((0, 2, 3)) if ctx.needs_input_grad[2] else None, None, None
