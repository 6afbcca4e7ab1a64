"""The application of rules, and the rules for convolutions."""

from __future__ import annotations

from functools import singledispatch

import torch
from torch import Tensor, nn

from gtcrn.export.optimize.weights import convolution, ungrouped
from gtcrn.models.enhancer import Enhancer
from gtcrn.streaming import CausalConv2d, CausalConvTranspose2d, Stateful

TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d)
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, *TRANSPOSED)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
FOLDED_INTO = (*CONVOLUTIONS, nn.Linear)


@singledispatch
def replacement(module: nn.Module, recurrence: str) -> nn.Module:
    """Return what a module becomes by its rule: itself, if its type has none."""
    return module


def rewrite(module: nn.Module, recurrence: str) -> nn.Module:
    """Replace a module by its rule, then everything in what it became."""
    module = replacement(module, recurrence)
    for name, child in list(module.named_children()):
        setattr(module, name, rewrite(child, recurrence))
    return module


@replacement.register
def replace_prelu(act: nn.PReLU, recurrence: str) -> nn.Module:
    """One slope for all channels: runtimes fuse a constant one into the convolution before it."""
    return nn.LeakyReLU(act.weight.item()) if act.num_parameters == 1 else act


@replacement.register
def replace_conv2d(conv: nn.Conv2d, recurrence: str) -> nn.Conv2d:
    """Leave out groups, but for depthwise ones: runtimes have faster kernels for one group than for a few."""
    if 1 < conv.groups < conv.in_channels:
        conv.weight, conv.groups = nn.Parameter(ungrouped(conv)), 1
    return conv


@replacement.register
def replace_conv_transpose2d(conv: nn.ConvTranspose2d, recurrence: str) -> nn.Module:
    """Make a plain convolution of one over frequency, if it has a stride only where no transposed ones are wanted."""
    (_, stride), (_, kernel), (_, cut) = conv.stride, conv.kernel_size, conv.padding
    over_time = conv.kernel_size[0] > 1 or conv.stride[0] > 1
    fitting = kernel - stride <= 2 * cut <= 2 * (kernel - 1)
    if over_time or not fitting or conv.dilation != (1, 1) or any(conv.output_padding):
        return conv
    conv.weight, conv.groups = nn.Parameter(ungrouped(conv)), 1
    if stride == 1:
        return convolution(_gathering(conv), conv.bias, padding=(0, kernel - 1 - cut))
    return InterleavedConv(conv) if recurrence == "unrolled" else conv


@replacement.register
def replace_causal_conv_transpose2d(conv: CausalConvTranspose2d, recurrence: str) -> nn.Module:
    if conv.stride[1] > 1:
        return FramesAsChannels(conv)
    plain = CausalConv2d(
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,
        n_freqs=conv.n_freqs,
        padding_freq=conv.kernel_size[1] - 1 - conv.padding[1],
        dilation=conv.dilation[0],
        groups=conv.groups,
    )
    plain.weight, plain.bias = nn.Parameter(_gathering(conv)), conv.bias
    return replacement(plain, recurrence)


def _gathering(conv: nn.ConvTranspose2d) -> Tensor:
    """Return the weight (C', C / groups, *kernel) by which outputs gather, of (C, C' / groups, *kernel), by which
    inputs spread."""
    grouped = conv.weight.unflatten(0, (conv.groups, -1))  # (groups, C / groups, C' / groups, *kernel)
    return grouped.transpose(1, 2).flatten(0, 1).flip(2, 3)


class FramesAsChannels(Stateful):
    """A CausalConvTranspose2d with a stride over frequency, for one frame: those of its past and itself are channels of
    one over frequency alone."""

    def __init__(self, conv: CausalConvTranspose2d):
        super().__init__()
        self.past_shape = conv.initial_state(1).shape
        taps = conv.weight.transpose(1, 2)  # (C, taps, C' / groups, kernel), the newest first
        weight = taps.new_zeros(conv.in_channels, conv.memory + 1, *taps.shape[2:])
        weight[:, conv.memory - conv.dilation[0] * torch.arange(taps.shape[1])] = taps
        self.conv = nn.ConvTranspose2d(
            conv.in_channels * (conv.memory + 1),
            conv.out_channels,
            (1, conv.kernel_size[1]),
            stride=conv.stride,
            padding=(0, conv.padding[1]),
            groups=conv.groups,
        )
        self.conv.weight, self.conv.bias = nn.Parameter(weight.flatten(0, 1)[:, :, None]), conv.bias

    def initial_state(self, batch_size: int) -> Tensor:
        return next(self.parameters()).new_zeros(batch_size, *self.past_shape[1:])

    def forward(self, x: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        frames = torch.cat([past, x], dim=2)  # (1, C, memory + 1, F)
        return self.conv(frames.flatten(1, 2)[:, :, None]), frames[:, :, 1:]


class InterleavedConv(nn.Module):
    """A transposed convolution of stride s over frequency as a plain one: litert-torch can't convert others.

    The bins m · s + p of one p < s are a convolution of their own, of every s-th tap; all p are computed as channels,
    then interleaved.
    """

    def __init__(self, conv: nn.ConvTranspose2d):
        super().__init__()
        (_, stride), (_, cut), (_, kernel) = conv.stride, conv.padding, conv.kernel_size
        self.cropped = stride + 2 * cut - kernel  # bins too many
        # y[m · s + p] = sum over j of w[j] · x[m + (p + cut - j) / s], where that is whole
        reach = max(stride - 1 + cut, kernel - 1 - cut) // stride
        weight = conv.weight.new_zeros(stride, conv.out_channels, conv.in_channels, 1, 2 * reach + 1)
        spreading = conv.weight.transpose(0, 1)  # (C', C, 1, kernel)
        for phase in range(stride):
            for tap in range((phase + cut) % stride, kernel, stride):
                weight[phase, ..., reach + (phase + cut - tap) // stride] = spreading[..., tap]
        bias = None if conv.bias is None else conv.bias.repeat(stride)
        self.conv = convolution(weight.flatten(0, 1), bias, padding=(0, reach))
        self.out_channels = conv.out_channels

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, C', T, s · F - cropped) for (B, C, T, F)."""
        y = self.conv(x).permute(0, 2, 3, 1)  # (B, T, F, s · C')
        y = y.reshape(*y.shape[:2], -1, self.out_channels)  # (B, T, s · F, C')
        return y[:, :, : y.shape[2] - self.cropped].permute(0, 3, 1, 2)


def fold_batch_norms(enhancer: Enhancer) -> None:
    """Fold every BatchNorm into the convolution or linear layer whose output it takes, as one hop shows.

    The enhancer is changed. A layer whose output is used otherwise too must not be followed by one.
    """
    made_by, pairs, hooks = {}, [], []
    for layer in enhancer.modules():
        if isinstance(layer, FOLDED_INTO):
            hooks.append(layer.register_forward_hook(lambda layer, _, output: made_by.update({_first(output): layer})))
        elif isinstance(layer, BATCH_NORMS) and layer.affine and layer.track_running_stats:
            hooks.append(layer.register_forward_hook(lambda norm, x, _: pairs.append((made_by.get(x[0]), norm))))
    enhancer(torch.zeros(1, enhancer.hop_length), enhancer.initial_state(1))
    for hook in hooks:
        hook.remove()
    pairs = [(conv, norm) for conv, norm in pairs if conv is not None]
    for conv, norm in pairs:
        _fold(norm, conv)
    folded = [norm for _, norm in pairs]
    for module in list(enhancer.modules()):
        for name, child in list(module.named_children()):
            if child in folded:
                setattr(module, name, nn.Identity())


def _first(output: Tensor | tuple) -> Tensor:
    """Return the output of a convolution without the past that a causal one returns beside it."""
    return output[0] if isinstance(output, tuple) else output


def _fold(norm: nn.BatchNorm2d, conv: nn.Conv2d | nn.Linear) -> None:
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    offset = norm.bias - norm.running_mean * scale
    groups = conv.groups if isinstance(conv, TRANSPOSED) else 1
    weight = conv.weight.unflatten(0, (groups, -1))  # (groups, C / groups, C' / groups, *kernel)
    if isinstance(conv, TRANSPOSED):
        weight = weight * scale.view(groups, 1, -1, *[1] * (weight.dim() - 3))
    else:  # (1, C', C / groups, *kernel)
        weight = weight * scale.view(1, -1, *[1] * (weight.dim() - 2))
    bias = offset if conv.bias is None else conv.bias * scale + offset
    conv.weight, conv.bias = nn.Parameter(weight.flatten(0, 1)), nn.Parameter(bias)
