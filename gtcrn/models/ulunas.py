"""UL-UNAS: an ultra-lightweight U-Net whose blocks an architecture search chose (Rong et al., IEEE TASLP 2026).

    spectrum -> log10 |S| -> ERB bands -> encoder -> dual-path GRUs -> decoder -> real mask <- bins

It is the pipeline of `gtcrn.models.gtcrn`, by the same authors and with the same dual-path GRUs, but takes magnitudes
alone, under a Hann window and not its root. Its blocks are of three kinds, each with an activation that every channel
and band has parameters of its own for, and with a gate over time and frequency.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gtcrn import kernels
from gtcrn.dsp.erb import ERB
from gtcrn.dsp.spectra import log_magnitude
from gtcrn.dsp.stft import STFT
from gtcrn.errors import UserError
from gtcrn.models.blocks import Decoder, Encoder, StreamingSequential
from gtcrn.models.enhancer import MAX_LAYERS, SpectralEnhancer
from gtcrn.models.gtcrn import DPGRNN, TemporalRecurrentAttention
from gtcrn.models.masking import ERBMaskNetwork
from gtcrn.streaming import CausalConv2d, CausalConvTranspose2d, Stateful
from gtcrn.streaming.state import State

BAND_GROUP = 4  # neighbouring bands that the gate over frequency takes together


class AffinePReLU(nn.Module):
    """APReLU: a · x + b + PReLU(x), with a and b of their own for every channel and band."""

    def __init__(self, channels: int, n_freqs: int):
        super().__init__()
        self.affine_weight = nn.Parameter(torch.ones(channels, n_freqs))
        self.affine_bias = nn.Parameter(torch.zeros(channels, n_freqs))
        self.slope_weight = nn.Parameter(torch.full((channels,), 0.25))

    def forward(self, x: Tensor) -> Tensor:
        line = self.affine_weight[:, None] * x + self.affine_bias[:, None]  # (B, C, T, F)
        return line + F.prelu(x, self.slope_weight)


class FrequencyAttention(nn.Module):
    """A gate per band and frame, which a GRU along frequency computes from the energies of groups of bands."""

    def __init__(self, n_freqs: int):
        super().__init__()
        self.n_freqs = n_freqs
        self.gru = kernels.GRU(BAND_GROUP, BAND_GROUP, bidirectional=True)
        self.fc = nn.Linear(2 * BAND_GROUP, BAND_GROUP)

    def forward(self, x: Tensor) -> Tensor:
        """Return the gates (B, 1, T, F), between 0 and 1, for x (B, C, T, F)."""
        energy = F.pad(x.square().mean(dim=1), (0, -self.n_freqs % BAND_GROUP))  # (B, T, F')
        hidden, _ = self.gru(energy.unflatten(2, (-1, BAND_GROUP)))  # (B, T, F' / 4, 8)
        return torch.sigmoid(self.fc(hidden).flatten(2)[:, None, :, : self.n_freqs])


class TimeFrequencyAttention(Stateful):
    """cTFA, a causal gate: GTCRN's, per channel and frame, times one per band and frame."""

    def __init__(self, channels: int, n_freqs: int):
        super().__init__()
        self.tra = TemporalRecurrentAttention(channels)
        self.fa = FrequencyAttention(n_freqs)

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        y, tra = self.tra(x, state["tra"])
        return y * self.fa(x), {"tra": tra}


class ConvUnit(Stateful):
    """A convolution over time and frequency, BatchNorm, and where they are wanted an affine PReLU and a gate."""

    def __init__(self, conv: CausalConv2d | CausalConvTranspose2d, n_freqs: int, active: bool, gated: bool):
        super().__init__()
        self.conv = conv
        self.bn = nn.BatchNorm2d(conv.out_channels)
        self.act = AffinePReLU(conv.out_channels, n_freqs) if active else nn.Identity()
        self.attention = TimeFrequencyAttention(conv.out_channels, n_freqs) if gated else None

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        x, conv = self.conv(x, state["conv"])
        x = kernels.normalised(x, self.bn, self.act)
        if self.attention is None:
            return x, {"conv": conv}
        x, attention = self.attention(x, state["attention"])
        return x, {"conv": conv, "attention": attention}


class Shuffle(nn.Module):
    """A channel shuffle, which takes one channel of every group in turn: (B, C, T, F) -> (B, C, T, F)."""

    def __init__(self, groups: int):
        super().__init__()
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        return x.unflatten(1, (self.groups, -1)).transpose(1, 2).flatten(1, 2)


class BlockSizes(NamedTuple):
    """The sizes of a block. kernel: frames and bands. stride: over bands. transposed: of the decoder, where the stride
    makes more bands. last: of the decoder's end, without activation and shuffle."""

    in_channels: int
    out_channels: int
    in_freqs: int
    out_freqs: int
    kernel: Sequence[int]
    stride: int
    groups: int
    transposed: bool
    last: bool

    def pointwise(self, in_channels: int, active: bool, gated: bool = False) -> ConvUnit:
        """Return a grouped convolution of single points."""
        n_freqs = self.in_freqs if active else self.out_freqs
        conv = CausalConv2d(in_channels, self.out_channels, (1, 1), n_freqs=n_freqs, groups=self.groups)
        return ConvUnit(conv, n_freqs, active, gated)

    def strided(self, in_channels: int, groups: int, active: bool, gated: bool) -> ConvUnit:
        """Return a convolution of the block's kernel and stride."""
        convolution = CausalConvTranspose2d if self.transposed else CausalConv2d
        time, freq = self.kernel
        conv = convolution(
            in_channels,
            self.out_channels,
            (time, freq),
            n_freqs=self.in_freqs,
            padding_freq=freq // 2,
            stride_freq=self.stride,
            groups=groups,
        )
        return ConvUnit(conv, self.out_freqs, active, gated)


class ConvBlock(Stateful):
    """XConv: one convolution."""

    def __init__(self, sizes: BlockSizes):
        super().__init__()
        self.full = sizes.strided(sizes.in_channels, sizes.groups, active=not sizes.last, gated=True)
        self.shuffle = Shuffle(1 if sizes.last else sizes.groups)

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        x, full = self.full(x, state["full"])
        return self.shuffle(x), {"full": full}


class SeparableBlock(Stateful):
    """XDWS: a pointwise and a depthwise convolution."""

    def __init__(self, sizes: BlockSizes):
        super().__init__()
        channels = sizes.out_channels
        self.point = sizes.pointwise(sizes.in_channels, active=True)
        self.shuffle = Shuffle(sizes.groups)
        self.depth = sizes.strided(channels, channels, active=not sizes.last, gated=True)

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        x, point = self.point(x, state["point"])
        x, depth = self.depth(self.shuffle(x), state["depth"])
        return x, {"point": point, "depth": depth}


class MobileBlock(Stateful):
    """XMB: a pointwise, a depthwise and a pointwise convolution, past which the input goes where it has the size."""

    def __init__(self, sizes: BlockSizes):
        super().__init__()
        channels = sizes.out_channels
        self.point1 = sizes.pointwise(sizes.in_channels, active=True)
        self.shuffle1 = Shuffle(sizes.groups)
        self.depth = sizes.strided(channels, channels, active=True, gated=False)
        self.point2 = sizes.pointwise(channels, active=False, gated=True)
        self.shuffle2 = Shuffle(1 if sizes.last else sizes.groups)
        self.residual = sizes.in_channels == channels and sizes.in_freqs == sizes.out_freqs

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        y, point1 = self.point1(x, state["point1"])
        y, depth = self.depth(self.shuffle1(y), state["depth"])
        y, point2 = self.point2(y, state["point2"])
        y = self.shuffle2(x + y if self.residual else y)
        return y, {"point1": point1, "depth": depth, "point2": point2}


BLOCKS = {"conv": ConvBlock, "dws": SeparableBlock, "mb": MobileBlock}


class ULUNAS(ERBMaskNetwork):
    """The spectral core of UL-UNAS."""

    def inputs(self, spec: Tensor) -> Tensor:
        return log_magnitude(spec)

    def mask(self, bands: Tensor, state: State) -> tuple[Tensor, State]:
        mask, next_state = super().mask(bands, state)
        return torch.sigmoid(mask), next_state

    def masked(self, mask: Tensor, spec: Tensor) -> Tensor:
        return mask * spec


def build(
    blocks: Sequence[str] = ("conv", "mb", "dws", "mb", "dws"),
    channels: Sequence[int] = (12, 24, 24, 32, 16),
    kernel_sizes: Sequence[Sequence[int]] = ((3, 3), (2, 3), (2, 3), (1, 5), (1, 5)),
    strides: Sequence[int] = (2, 2, 1, 1, 1),
    groups: Sequence[int] = (1, 2, 2, 2, 2),
    dpgrnn_count: int = 2,
    erb_low_bins: int = 65,
    erb_bands: int = 64,
    n_fft: int = 512,
    hop_length: int = 256,
    sample_rate: int = 16000,
    causal: bool = True,
    padding: str | None = None,
) -> SpectralEnhancer:
    """Build UL-UNAS, with the published sizes as defaults.

    The first five have one value for each block of the encoder, which the decoder mirrors. blocks: kinds, conv, dws or
    mb. channels: of its output, the last a multiple of 4. kernel_sizes: frames and an odd number of bands. strides:
    over bands, 1 or 2. groups: of convolutions that are not depthwise, divisors of the channels on both sides, 1 for
    the first. dpgrnn_count: dual-path blocks, 1 to 32. erb_low_bins + erb_bands: odd, and so after every stride of 2.
    causal: must be True. Raises `UserError` naming the key that is out of range.
    """
    lists = dict(blocks=blocks, channels=channels, kernel_sizes=kernel_sizes, strides=strides, groups=groups)
    for key, values in lists.items():
        if not len(values) == len(blocks) <= MAX_LAYERS or not blocks:
            raise UserError(
                f"model.{key}: {len(values)} values for {len(blocks)} blocks; blocks, channels, kernel_sizes, strides "
                f"and groups have as many values, 1 to {MAX_LAYERS}"
            )
    if not 1 <= dpgrnn_count <= MAX_LAYERS:
        raise UserError(f"model.dpgrnn_count={dpgrnn_count}: must lie between 1 and {MAX_LAYERS}")
    sides, freqs = [1, *channels], [erb_low_bins + erb_bands]
    for i, (kind, (time, freq), stride, count) in enumerate(zip(blocks, kernel_sizes, strides, groups)):
        if kind not in BLOCKS:
            raise UserError(f"model.blocks[{i}]={kind}: must be one of {', '.join(BLOCKS)}")
        if channels[i] < 1:
            raise UserError(f"model.channels[{i}]={channels[i]}: must be at least 1")
        if time < 1 or freq < 1 or freq % 2 == 0:
            raise UserError(f"model.kernel_sizes[{i}]=[{time}, {freq}]: must be frames, and an odd number of bands")
        if stride not in (1, 2):
            raise UserError(f"model.strides[{i}]={stride}: must be 1 or 2")
        if stride == 2 and freqs[-1] % 2 == 0:
            raise UserError(
                f"model.strides[{i}]=2: halves {freqs[-1]} bands, which the decoder could not restore; choose "
                f"model.erb_low_bins={erb_low_bins} + model.erb_bands={erb_bands} so that they are odd there"
            )
        if count < 1 or sides[i] % count or sides[i + 1] % count:
            raise UserError(f"model.groups[{i}]={count}: must divide the channels {sides[i]} and {sides[i + 1]}")
        freqs.append(-(-freqs[-1] // stride))
    if channels[-1] % 4:
        raise UserError(f"model.channels[{len(channels) - 1}]={channels[-1]}: the last must be a multiple of 4 (GRUs)")
    if not causal:
        raise UserError("model.causal=False: UL-UNAS's blocks look back only; set streaming=causal")
    encoder, decoder = [], []
    for i, kind in enumerate(blocks):
        there, back = ((*sides[i : i + 2][::step], *freqs[i : i + 2][::step]) for step in (1, -1))
        rest = dict(kernel=kernel_sizes[i], stride=strides[i], groups=groups[i])
        encoder.append(BLOCKS[kind](BlockSizes(*there, **rest, transposed=False, last=False)))
        decoder.append(BLOCKS[kind](BlockSizes(*back, **rest, transposed=True, last=i == 0)))
    core = ULUNAS(
        ERB(erb_low_bins, erb_bands, n_fft, sample_rate),
        nn.Identity(),
        Encoder(encoder),
        StreamingSequential(DPGRNN(channels[-1], channels[-1], freqs[-1]) for _ in range(dpgrnn_count)),
        Decoder(decoder[::-1]),
    )
    return SpectralEnhancer(core, STFT(n_fft, hop_length, "hann"), sample_rate, padding)
