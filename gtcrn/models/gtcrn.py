"""GTCRN: grouped temporal convolutional recurrent network (Rong et al., ICASSP 2024).

    spectrum -> |S|, re, im -> ERB bands -> subband neighbours -> encoder -> dual-path GRUs -> decoder
             -> complex mask <- bins <------------------------------------------------------------┘

Every block maps (B, C, T, F), state to (B, C', T, F'), next state.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gtcrn import kernels
from gtcrn.dsp.erb import ERB
from gtcrn.dsp.stft import STFT
from gtcrn.errors import UserError
from gtcrn.models.blocks import Decoder, Encoder, StreamingSequential
from gtcrn.models.enhancer import MAX_LAYERS, SpectralEnhancer
from gtcrn.models.masking import ERBMaskNetwork, quartered_bands
from gtcrn.streaming import CausalConv2d, CausalConvTranspose2d, CausalGRU, Stateful
from gtcrn.streaming.state import State

DILATIONS = (1, 2, 5)


class SubbandFeatures(nn.Module):
    """Subband feature extraction (SFE), which stacks every band with its two neighbours (section 2.2).

    It maps (B, C, T, F) to (B, 3C, T, F), ordered (channel, neighbour), with zeros beyond the ends.
    """

    def forward(self, x: Tensor) -> Tensor:
        neighbours = F.pad(x, (1, 1)).unfold(3, x.shape[3], 1)  # (B, C, T, 3, F)
        return neighbours.transpose(2, 3).flatten(1, 2)


class ConvBlock(Stateful):
    """A convolution of stride 2 over frequency alone (transposed: upsampling), BatchNorm and an activation."""

    def __init__(
        self, in_channels: int, out_channels: int, groups: int = 1, transposed: bool = False, last: bool = False
    ):
        super().__init__()
        convolution = kernels.ConvTranspose2d if transposed else kernels.Conv2d
        self.conv = convolution(in_channels, out_channels, (1, 5), stride=(1, 2), padding=(0, 2), groups=groups)
        self.bn = nn.BatchNorm2d(out_channels)
        self.act = nn.Tanh() if last else nn.PReLU()

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        return kernels.normalised(self.conv(x), self.bn, self.act), state


class TemporalRecurrentAttention(Stateful):
    """TRA, a gate per channel and frame that a GRU computes from the frame energies (section 2.3)."""

    def __init__(self, channels: int):
        super().__init__()
        self.att_gru = CausalGRU(channels, 2 * channels)
        self.att_fc = nn.Linear(2 * channels, channels)

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        energy = x.square().mean(dim=-1)  # (B, C, T)
        hidden, gru = self.att_gru(energy.transpose(1, 2), state["att_gru"])  # (B, T, 2C)
        gate = torch.sigmoid(self.att_fc(hidden))  # (B, T, C)
        return x * gate.transpose(1, 2)[..., None], {"att_gru": gru}


class GTConvBlock(Stateful):
    """A grouped temporal convolution (section 2.3): a dilated depthwise 3×3 processes half of the channels, the other
    half bypass it, then a channel shuffle interleaves both."""

    def __init__(self, channels: int, n_freqs: int, dilation: int, transposed: bool, causal: bool):
        super().__init__()
        pointwise = kernels.ConvTranspose2d if transposed else kernels.Conv2d
        depthwise = CausalConvTranspose2d if transposed else CausalConv2d
        half = channels // 2
        self.sfe = SubbandFeatures()
        self.point_conv1 = pointwise(3 * half, channels, 1)
        self.point_bn1 = nn.BatchNorm2d(channels)
        self.point_act = nn.PReLU()
        self.depth_conv = depthwise(
            channels,
            channels,
            (3, 3),
            n_freqs=n_freqs,
            padding_freq=1,
            dilation=dilation,
            groups=channels,
            causal=causal,
        )
        self.depth_bn = nn.BatchNorm2d(channels)
        self.depth_act = nn.PReLU()
        self.point_conv2 = pointwise(channels, half, 1)
        self.point_bn2 = nn.BatchNorm2d(half)
        self.tra = TemporalRecurrentAttention(half)

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        x, bypass = x.chunk(2, dim=1)  # (B, C/2, T, F) each
        x = kernels.normalised(kernels.with_neighbours(x, self.sfe, self.point_conv1), self.point_bn1, self.point_act)
        x, depth_conv = self.depth_conv(x, state["depth_conv"])
        x = kernels.normalised(x, self.depth_bn, self.depth_act)
        x = self.point_bn2(self.point_conv2(x))
        x, tra = self.tra(x, state["tra"])
        x = torch.stack([x, bypass], dim=2).flatten(1, 2)  # channels 0, C/2, 1, C/2 + 1, …
        return x, {"depth_conv": depth_conv, "tra": tra}


class GroupedGRU(Stateful):
    """Two GRUs that process half of the channels each, over frequency in both directions or over time."""

    def __init__(self, input_size: int, hidden_size: int, n_freqs: int, over_time: bool):
        super().__init__()
        self.over_time = over_time
        self.n_freqs = n_freqs
        hidden_size //= 2 if over_time else 4  # both directions together give half of it
        self.rnn1 = kernels.GRU(input_size // 2, hidden_size, bidirectional=not over_time)
        self.rnn2 = kernels.GRU(input_size // 2, hidden_size, bidirectional=not over_time)

    def initial_state(self, batch_size: int) -> State:
        """Return the hidden states (B, F, H / 2) over time; a GRU over frequency has no past, and an empty state."""
        if not self.over_time:
            return {}
        shape = batch_size, self.n_freqs, self.rnn1.hidden_size
        return {name: self.rnn1.weight_hh_l0.new_zeros(shape) for name in ("rnn1", "rnn2")}

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Run both GRUs and concatenate their outputs: (B, T, F, C) -> (B, T, F, H)."""
        if self.over_time:
            x = x.transpose(1, 2)  # (B, F, T, C)
        outputs, next_state = [], {}
        for share, (name, gru) in zip(x.chunk(2, dim=3), self.named_children()):
            y, last = gru(share, state[name].flatten(0, 1)[None] if self.over_time else None)
            outputs.append(y)
            if self.over_time:
                next_state[name] = last.view_as(state[name])
        y = torch.cat(outputs, dim=3)
        return y.transpose(1, 2) if self.over_time else y, next_state


class DPGRNN(Stateful):
    """A grouped dual-path RNN, which runs along frequency within a frame, then along time within a band."""

    def __init__(self, channels: int, hidden_size: int, n_freqs: int):
        super().__init__()
        self.intra_rnn = GroupedGRU(channels, hidden_size, n_freqs, over_time=False)
        self.intra_fc = nn.Linear(hidden_size, channels)
        self.intra_ln = nn.LayerNorm((n_freqs, channels), eps=1e-8)
        self.inter_rnn = GroupedGRU(channels, hidden_size, n_freqs, over_time=True)
        self.inter_fc = nn.Linear(hidden_size, channels)
        self.inter_ln = nn.LayerNorm((n_freqs, channels), eps=1e-8)

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        x = x.permute(0, 2, 3, 1)  # (B, T, F, C)
        y, intra = self.intra_rnn(x, state["intra_rnn"])
        x = x + self.intra_ln(self.intra_fc(y))
        y, inter = self.inter_rnn(x, state["inter_rnn"])
        x = x + self.inter_ln(self.inter_fc(y))
        return x.permute(0, 3, 1, 2), {"intra_rnn": intra, "inter_rnn": inter}


class GTCRN(ERBMaskNetwork):
    """The spectral core of GTCRN."""


def build(
    channels: int = 16,
    dpgrnn_count: int = 2,
    hidden_size: int = 16,
    erb_low_bins: int = 65,
    erb_bands: int = 64,
    n_fft: int = 512,
    hop_length: int = 256,
    sample_rate: int = 16000,
    causal: bool = True,
    padding: str | None = None,
) -> SpectralEnhancer:
    """Build GTCRN, with the published sizes as defaults.

    channels: of encoder and decoder, a multiple of 2. dpgrnn_count: dual-path blocks, 1 to 32.
    hidden_size: of their GRUs, a multiple of 4. erb_low_bins + erb_bands: 4k + 1, so that two downsamplings
    and two upsamplings by 2 restore the number of bands. causal: False pads time symmetrically.
    Raises `UserError` naming the key that is out of range.
    """
    if channels < 2 or channels % 2:
        raise UserError(f"model.channels={channels}: must be a positive multiple of 2 (half of them pass by)")
    if not 1 <= dpgrnn_count <= MAX_LAYERS:
        raise UserError(f"model.dpgrnn_count={dpgrnn_count}: must lie between 1 and {MAX_LAYERS}")
    if hidden_size < 4 or hidden_size % 4:
        raise UserError(f"model.hidden_size={hidden_size}: must be a positive multiple of 4 (2 groups, 2 directions)")
    n_freqs = quartered_bands(erb_low_bins, erb_bands)
    stft = STFT(n_fft, hop_length)
    encoder = [ConvBlock(9, channels), ConvBlock(channels, channels, groups=2)]
    encoder += [GTConvBlock(channels, n_freqs, dilation, transposed=False, causal=causal) for dilation in DILATIONS]
    decoder = [
        GTConvBlock(channels, n_freqs, dilation, transposed=True, causal=causal) for dilation in reversed(DILATIONS)
    ]
    decoder += [
        ConvBlock(channels, channels, groups=2, transposed=True),
        ConvBlock(channels, 2, transposed=True, last=True),
    ]
    core = GTCRN(
        ERB(erb_low_bins, erb_bands, n_fft, sample_rate),
        SubbandFeatures(),
        Encoder(encoder),
        StreamingSequential(DPGRNN(channels, hidden_size, n_freqs) for _ in range(dpgrnn_count)),
        Decoder(decoder),
    )
    return SpectralEnhancer(core, stft, sample_rate, padding)
