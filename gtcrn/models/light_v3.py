"""GTCRN-Light v3: GTCRN with every operator slimmed (zerong7777-boop/gtcrn-light, 2025).

It is the pipeline of `gtcrn.models.gtcrn` with depthwise separable convolutions, a gate without a GRU and
dual-path GRUs in a bottleneck of r channels. It was published with symmetric padding in time, which looks 22
frames (352 ms) ahead; `causal=True` is the streamable variant, a different model that needs its own
training.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from gtcrn import kernels
from gtcrn.dsp.erb import ERB
from gtcrn.dsp.stft import STFT
from gtcrn.errors import UserError
from gtcrn.models.blocks import Decoder, Encoder, StreamingSequential
from gtcrn.models.enhancer import SpectralEnhancer
from gtcrn.models.masking import ERBMaskNetwork, quartered_bands
from gtcrn.streaming import CausalConv1d, CausalConv2d, Stateful, TimeGRU
from gtcrn.streaming.state import State

BASE_CHANNELS = 12
DILATIONS = (1, 2, 5)


class SeparableBlock(Stateful):
    """A depthwise 1×3 of stride 2 over frequency (transposed: upsampling), a pointwise one, BatchNorm and PReLU."""

    def __init__(self, in_channels: int, out_channels: int, transposed: bool = False):
        super().__init__()
        convolution = kernels.ConvTranspose2d if transposed else kernels.Conv2d
        self.dw = convolution(
            in_channels, in_channels, (1, 3), stride=(1, 2), padding=(0, 1), groups=in_channels, bias=False
        )
        self.pw = kernels.Conv2d(in_channels, out_channels, 1, bias=False)
        self.bn = nn.BatchNorm2d(out_channels)
        self.act = nn.PReLU()

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        return kernels.normalised(self.pw(self.dw(x)), self.bn, self.act), state


class TemporalGate(Stateful):
    """TRALite, a gate per channel and frame that a short convolution computes from the frame energies."""

    def __init__(self, channels: int, causal: bool):
        super().__init__()
        self.dw = CausalConv1d(channels, channels, 3, groups=channels, causal=causal)
        self.pw = nn.Conv1d(channels, channels, 1)

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        energy = x.square().mean(dim=-1)  # (B, C, T)
        energy, dw = self.dw(energy, state["dw"])
        return x * torch.sigmoid(self.pw(energy))[..., None], {"dw": dw}


class GTConvLite(Stateful):
    """A residual block: dilated depthwise 3×3, pointwise convolution, BatchNorm, PReLU and a temporal gate."""

    def __init__(self, channels: int, n_freqs: int, dilation: int, causal: bool):
        super().__init__()
        self.ds = CausalConv2d(
            channels,
            channels,
            (3, 3),
            n_freqs=n_freqs,
            padding_freq=1,
            dilation=dilation,
            groups=channels,
            bias=False,
            causal=causal,
        )
        self.pw = kernels.Conv2d(channels, channels, 1, bias=False)
        self.bn = nn.BatchNorm2d(channels)
        self.act = nn.PReLU()
        self.tra = TemporalGate(channels, causal)

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        y, ds = self.ds(x, state["ds"])
        y, tra = self.tra(kernels.normalised(self.pw(y), self.bn, self.act), state["tra"])
        return x + y, {"ds": ds, "tra": tra}


class BottleneckDPGRNN(Stateful):
    """A dual-path RNN in r of C channels, which runs along frequency within a frame, then along time within a band."""

    def __init__(self, channels: int, r: int, n_freqs: int, bidirectional: bool):
        super().__init__()
        self.pre = kernels.Linear(channels, r, bias=False)  # shared by both paths
        self.intra = kernels.GRU(r, r, bidirectional=bidirectional)
        self.post = kernels.Linear(2 * r if bidirectional else r, channels, bias=False)
        self.ln1 = kernels.LayerNorm(channels, eps=1e-8)
        self.inter = TimeGRU(r, r, n_freqs)
        self.post2 = kernels.Linear(r, channels, bias=False)
        self.ln2 = kernels.LayerNorm(channels, eps=1e-8)

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        x = x.permute(0, 2, 3, 1)  # (B, T, F, C)
        x = self.ln1(x + self.post(self.intra(self.pre(x))[0]))
        y, inter = self.inter(self.pre(x), state["inter"])
        x = self.ln2(x + self.post2(y))
        return x.permute(0, 3, 1, 2), {"inter": inter}


class LightV3(ERBMaskNetwork):
    """The spectral core of GTCRN-Light v3."""


def build(
    width_mult: float = 1.0,
    r: int | None = None,
    use_two_dpgrnn: bool = True,
    rnn_bidirectional: bool = True,
    erb_low_bins: int = 65,
    erb_bands: int = 64,
    n_fft: int = 512,
    hop_length: int = 256,
    sample_rate: int = 16000,
    causal: bool = True,
    padding: str | None = None,
) -> SpectralEnhancer:
    """Build GTCRN-Light v3, with the published sizes as defaults.

    width_mult: channels C = max(8, round(12 · width_mult)), the published rule. r: channels of the
    dual-path bottleneck, None for the published max(8, ceil(0.75 · C)). use_two_dpgrnn: a second
    dual-path block. rnn_bidirectional: frequency GRUs in both directions. causal: False is the
    published symmetric padding in time. Raises `UserError` naming the key that is out of range.
    """
    if not 0.5 <= width_mult <= 8:
        raise UserError(
            f"model.width_mult={width_mult}: must lie between 0.5 and 8 "
            "(the published rule keeps at least 8 channels: smaller values change nothing)"
        )
    channels = max(8, round(BASE_CHANNELS * width_mult))
    if r is None:
        r = max(8, math.ceil(0.75 * channels))
    if not 1 <= r <= 256:
        raise UserError(f"model.r={r}: must lie between 1 and 256, or be null for the published rule")
    n_freqs = quartered_bands(erb_low_bins, erb_bands)
    stft = STFT(n_fft, hop_length)
    encoder = [SeparableBlock(3, channels), SeparableBlock(channels, channels)]
    encoder += [GTConvLite(channels, n_freqs, dilation, causal) for dilation in DILATIONS]
    decoder = [GTConvLite(channels, n_freqs, dilation, causal) for dilation in reversed(DILATIONS)]
    decoder += [SeparableBlock(channels, channels, transposed=True), SeparableBlock(channels, 2, transposed=True)]
    core = LightV3(
        ERB(erb_low_bins, erb_bands, n_fft, sample_rate, as_parameter=False),
        # SFE-Lite: a depthwise 1×3 in place of GTCRN's stacking of neighbours
        kernels.Conv2d(3, 3, (1, 3), padding=(0, 1), groups=3, bias=False),
        Encoder(encoder),
        StreamingSequential(
            BottleneckDPGRNN(channels, r, n_freqs, rnn_bidirectional) for _ in range(2 if use_two_dpgrnn else 1)
        ),
        Decoder(decoder),
    )
    return SpectralEnhancer(core, stft, sample_rate, padding)
