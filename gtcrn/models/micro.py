"""GTCRN-Micro: GTCRN without recurrence, for microcontrollers (bglid/GTCRN-Micro, 2025).

It is the pipeline of `gtcrn.models.gtcrn` with the subband features and the gate of Light v3, no dilation in
encoder and decoder, and stacks of temporal convolutions in place of the dual-path GRUs. It has fewer parameters
than GTCRN, yet more multiplications by every count, since the decoder's 3×3 convolutions are dense.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gtcrn import kernels
from gtcrn.dsp.erb import ERB
from gtcrn.dsp.stft import STFT
from gtcrn.errors import UserError
from gtcrn.models.blocks import Decoder, Encoder, StreamingSequential
from gtcrn.models.enhancer import MAX_LAYERS, SpectralEnhancer
from gtcrn.models.light_v3 import TemporalGate
from gtcrn.models.masking import ERBMaskNetwork, quartered_bands
from gtcrn.streaming import CausalConv2d, CausalConvTranspose2d, Stateful
from gtcrn.streaming.state import State

ACTIVATIONS = {"prelu": nn.PReLU, "relu": nn.ReLU}
LONGEST_MEMORY = 3750  # frames that one convolution may remember: a minute at the published hop


class ConvBlock(Stateful):
    """A convolution over frequency alone that halves or doubles the bands, BatchNorm and an activation."""

    def __init__(self, conv: nn.Module, channels: int, activation: type[nn.Module]):
        super().__init__()
        self.conv = conv
        self.bn = nn.BatchNorm2d(channels)
        self.act = activation()

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        return kernels.normalised(self.conv(x), self.bn, self.act), state


def halving(in_channels: int, out_channels: int) -> nn.Module:
    """Return a convolution that halves the bands: (B, C, T, 2F - 1) -> (B, C', T, F)."""
    return kernels.Conv2d(in_channels, out_channels, (1, 5), stride=(1, 2), padding=(0, 2))


def doubling(in_channels: int, out_channels: int, transposed: bool) -> nn.Module:
    """Return a convolution that doubles the bands: (B, C, T, F) -> (B, C', T, 2F - 1)."""
    if transposed:
        return kernels.ConvTranspose2d(in_channels, out_channels, (1, 5), stride=(1, 2), padding=(0, 2))
    # where every band is repeated, four taps see as many bands on either side; five would not
    return nn.Sequential(
        nn.Upsample(scale_factor=(1, 2)), kernels.Conv2d(in_channels, out_channels, (1, 4), padding=(0, 1))
    )


class GTConvBlock(Stateful):
    """GTCRN's grouped temporal convolution without dilation: a 3×3 convolution and a gate process half of the
    channels, the other half bypass them, then a channel shuffle interleaves both."""

    def __init__(
        self,
        channels: int,
        n_freqs: int,
        groups: int | None,
        activation: type[nn.Module],
        transposed: bool,
        causal: bool,
    ):
        super().__init__()
        pointwise = kernels.ConvTranspose2d if transposed else kernels.Conv2d
        convolution = CausalConvTranspose2d if transposed else CausalConv2d
        half = channels // 2
        self.point_conv1 = pointwise(half, channels, 1)
        self.point_bn1 = nn.BatchNorm2d(channels)
        self.point_act = activation()
        self.depth_conv = convolution(
            channels, channels, (3, 3), n_freqs=n_freqs, padding_freq=1, groups=groups or channels, causal=causal
        )
        self.depth_bn = nn.BatchNorm2d(channels)
        self.depth_act = activation()
        self.point_conv2 = pointwise(channels, half, 1)
        self.point_bn2 = nn.BatchNorm2d(half)
        self.tra = TemporalGate(half, causal)

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        x, bypass = x.chunk(2, dim=1)  # (B, C/2, T, F) each
        x = kernels.normalised(self.point_conv1(x), self.point_bn1, self.point_act)
        x, depth_conv = self.depth_conv(x, state["depth_conv"])
        x = kernels.normalised(x, self.depth_bn, self.depth_act)
        x = self.point_bn2(self.point_conv2(x))
        x, tra = self.tra(x, state["tra"])
        x = torch.stack([x, bypass], dim=2).flatten(1, 2)  # channels 0, C/2, 1, C/2 + 1, …
        return x, {"depth_conv": depth_conv, "tra": tra}


class TemporalBlock(Stateful):
    """A residual TCN block: a pointwise, a dilated depthwise (over time alone) and a pointwise convolution."""

    def __init__(
        self, channels: int, n_freqs: int, kernel: int, dilation: int, activation: type[nn.Module], causal: bool
    ):
        super().__init__()
        self.conv1 = kernels.Conv2d(channels, channels, 1)
        self.bn1 = nn.BatchNorm2d(channels)
        self.act1 = activation()
        self.conv2 = CausalConv2d(
            channels, channels, (kernel, 1), n_freqs=n_freqs, dilation=dilation, groups=channels, causal=causal
        )
        self.bn2 = nn.BatchNorm2d(channels)
        self.act2 = activation()
        self.conv3 = kernels.Conv2d(channels, channels, 1)
        self.bn3 = nn.BatchNorm2d(channels)
        self.act3 = activation()

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        y, conv2 = self.conv2(kernels.normalised(self.conv1(x), self.bn1, self.act1), state["conv2"])
        y = self.bn3(self.conv3(kernels.normalised(y, self.bn2, self.act2)))
        return self.act3(x + y), {"conv2": conv2}


class Micro(ERBMaskNetwork):
    """The spectral core of GTCRN-Micro."""


def build(
    channels: int = 16,
    stacks: int = 2,
    blocks: int = 4,
    kernel: int = 3,
    dilation_growth: int = 2,
    encoder_groups: int | None = None,
    decoder_groups: int | None = 1,
    transposed: bool = True,
    activation: str = "prelu",
    erb_low_bins: int = 65,
    erb_bands: int = 64,
    n_fft: int = 512,
    hop_length: int = 256,
    sample_rate: int = 16000,
    causal: bool = True,
    padding: str | None = None,
) -> SpectralEnhancer:
    """Build GTCRN-Micro, with the published sizes as defaults.

    channels: of every layer, a multiple of 2. stacks: stacks of `blocks` temporal convolutions each, which see
    `kernel` frames spaced 1, g, g², … apart for g = dilation_growth. encoder_groups, decoder_groups: of the 3×3
    convolutions, divisors of `channels`, None for depthwise. transposed: the decoder's convolutions are
    transposed; False repeats bands and convolves without transposition. activation: prelu or relu. causal: False
    pads time symmetrically. Raises `UserError` naming the key that is out of range.
    """
    if channels < 2 or channels % 2:
        raise UserError(f"model.channels={channels}: must be a positive multiple of 2 (half of them pass by)")
    for key, value in dict(stacks=stacks, blocks=blocks, kernel=kernel, dilation_growth=dilation_growth).items():
        if value < 1:
            raise UserError(f"model.{key}={value}: must be at least 1")
    for key, value in dict(stacks=stacks, blocks=blocks).items():
        if value > MAX_LAYERS:
            raise UserError(f"model.{key}={value}: must be at most {MAX_LAYERS}")
    if not causal and kernel % 2 == 0:
        raise UserError(f"model.kernel={kernel}: must be odd where time is padded on both sides (streaming=offline)")
    memory = (kernel - 1) * dilation_growth ** (blocks - 1)
    if memory > LONGEST_MEMORY:
        raise UserError(
            f"model.dilation_growth={dilation_growth}: the last of blocks={blocks} with kernel={kernel} would remember "
            f"{memory} frames; at most {LONGEST_MEMORY}, so lower one of the three"
        )
    for key, groups in dict(encoder_groups=encoder_groups, decoder_groups=decoder_groups).items():
        if groups is not None and (groups < 1 or channels % groups):
            raise UserError(f"model.{key}={groups}: must divide channels={channels}, or be null for depthwise")
    if activation not in ACTIVATIONS:
        raise UserError(f"model.activation={activation}: must be one of {', '.join(ACTIVATIONS)}")
    act = ACTIVATIONS[activation]
    n_freqs = quartered_bands(erb_low_bins, erb_bands)
    stft = STFT(n_fft, hop_length)
    encoder = [
        ConvBlock(halving(3, channels), channels, act),
        ConvBlock(halving(channels, channels), channels, act),
        *(GTConvBlock(channels, n_freqs, encoder_groups, act, transposed=False, causal=causal) for _ in range(3)),
    ]
    decoder = [
        *(GTConvBlock(channels, n_freqs, decoder_groups, act, transposed, causal) for _ in range(3)),
        ConvBlock(doubling(channels, channels, transposed), channels, act),
        ConvBlock(doubling(channels, 2, transposed), 2, nn.Tanh),
    ]
    core = Micro(
        ERB(erb_low_bins, erb_bands, n_fft, sample_rate),
        kernels.Conv2d(3, 3, (1, 3), padding=(0, 1), groups=3, bias=False),  # SFE-Lite of Light v3
        Encoder(encoder),
        StreamingSequential(
            StreamingSequential(
                TemporalBlock(channels, n_freqs, kernel, dilation_growth**block, act, causal) for block in range(blocks)
            )
            for _ in range(stacks)
        ),
        Decoder(decoder),
    )
    return SpectralEnhancer(core, stft, sample_rate, padding)
