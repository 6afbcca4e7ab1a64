"""FastEnhancer: a network whose layers are few and large, made to be fast rather than small (Ahn et al., ICASSP 2026).

    spectrum -> compression -> encoder -> bands -> RNNFormer blocks -> bins -> decoder -> complex mask
                   │              └─────────────── skips, concatenated ──────────┘             │
                   └────────────────────────────────── · ───────────────────────────────────────┘ -> expansion

Convolutions see neighbouring bins of one frame; the hidden states of one GRU per block are all that it remembers.
The highest bin, at half of the sample rate, is left out, and comes back as zero.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm as normalise_weight

from gtcrn import kernels
from gtcrn.dsp.erb import ERBMatrix
from gtcrn.dsp.spectra import apply_complex_mask, power
from gtcrn.dsp.stft import STFT
from gtcrn.errors import UserError
from gtcrn.models.blocks import StreamingSequential
from gtcrn.models.enhancer import MAX_LAYERS, SpectralEnhancer, StreamingModel
from gtcrn.streaming import Stateful, TimeGRU
from gtcrn.streaming.state import State

QUIETEST = 1e-10  # power of a bin below which compression goes on as a constant factor


class SelfAttention(nn.Module):
    """Attention of every band to all bands of its frame: (N, F, C) -> (N, F, C)."""

    def __init__(self, channels: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(channels, 3 * channels, bias=False)
        self.product = DotProduct()

    def forward(self, x: Tensor) -> Tensor:
        heads = self.qkv(x).unflatten(2, (self.heads, -1)).transpose(1, 2)  # (N, heads, F, 3C / heads)
        return self.product(*heads.chunk(3, dim=3)).transpose(1, 2).flatten(2)


class DotProduct(nn.Module):
    """The weightless part of attention, softmax(q · k / √C) · v: three of (N, heads, F, C) -> (N, heads, F, C)."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v)


class RNNFormer(Stateful):
    """A GRU along time within every band, then attention along frequency within every frame (section 2.2).

    It maps (B, T, F, C), {"rnn": (B, F, C)} to (B, T, F, C) and the next state. embedding: (F, C), added before the
    attention to tell bands apart; None in all blocks but the first.
    """

    def __init__(self, channels: int, n_bands: int, heads: int, embedding: Tensor | None, batch_norm: bool):
        super().__init__()
        self.pe = None if embedding is None else nn.Parameter(embedding)
        self.rnn = TimeGRU(channels, channels, n_bands)
        self.rnn_fc = nn.Linear(channels, channels, bias=not batch_norm)
        self.rnn_post_norm = nn.BatchNorm1d(channels) if batch_norm else nn.Identity()
        self.attn = SelfAttention(channels, heads)
        self.attn_fc = nn.Linear(channels, channels, bias=not batch_norm)
        self.attn_post_norm = nn.BatchNorm1d(channels) if batch_norm else nn.Identity()

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        y, rnn = self.rnn(x, state["rnn"])
        x = x + self.rnn_post_norm(self.rnn_fc(y.flatten(0, 2))).view_as(x)
        if self.pe is not None:
            x = x + self.pe
        y = self.attn(x.flatten(0, 1))  # (B · T, F, C)
        x = x + self.attn_post_norm(self.attn_fc(y.flatten(0, 1))).view_as(x)
        return x, {"rnn": rnn}


class FastEnhancer(StreamingModel):
    """The spectral core: spectrum (B, 2, T, bins), state -> enhanced spectrum (B, 2, T, bins), next state.

    compression: c, by which magnitudes become |S|^c before the network, and are taken back behind its mask.
    """

    def __init__(
        self,
        downsample: nn.Module,
        encoder: nn.ModuleList,
        to_bands: nn.Module,
        blocks: StreamingSequential,
        to_bins: nn.Module,
        decoder: nn.ModuleList,
        upsample: nn.Module,
        compression: float,
    ):
        super().__init__()
        self.downsample = downsample
        self.encoder = encoder
        self.to_bands = to_bands
        self.blocks = blocks
        self.to_bins = to_bins
        self.decoder = decoder
        self.upsample = upsample
        self.compression = compression

    def forward(self, spec: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        state = self.start(spec.shape[0], state)
        spec = spec[..., :-1]
        factor = power(spec, eps=0).clamp(min=QUIETEST) ** ((self.compression - 1) / 2)
        spec = spec * factor[:, None]
        mask, next_state = self.mask(spec, state)
        spec = apply_complex_mask(mask, spec)
        spec = spec * (power(spec) ** ((1 / self.compression - 1) / 2))[:, None]
        return F.pad(spec, (0, 1)), next_state

    def mask(self, spec: Tensor, state: State) -> tuple[Tensor, State]:
        """Predict the mask (B, 2, T, F) from a compressed spectrum (B, 2, T, F)."""
        x = self.downsample(spec)  # (B, C, T, F / stride)
        skips = [x]
        for block in self.encoder:
            x = block(x)
            skips.append(x)
        x = self.to_bands(x).permute(0, 2, 3, 1)  # (B, T, bands, C')
        x, blocks = self.blocks(x, state["blocks"])
        x = self.to_bins(x.permute(0, 3, 1, 2))  # (B, C, T, F / stride)
        for block in (*self.decoder, self.upsample):
            x = block(torch.cat([x, skips.pop()], dim=1))
        return x, {"blocks": blocks}


def linear_filterbank(n_bins: int, n_bands: int) -> Tensor:
    """Return triangles (n_bands, n_bins) over frequency, equally spaced from the first bin to the last, which add up
    to one on every bin."""
    peaks = np.linspace(0, n_bins - 1, n_bands)
    filters = np.stack([np.interp(np.arange(n_bins), peaks, one_hot) for one_hot in np.eye(n_bands)])
    return torch.from_numpy(filters.astype(np.float32))


def positional_embedding(n_bands: int, channels: int) -> Tensor:
    """Return sines and cosines (n_bands, channels) along the bands, from half a period to n_bands - 1 of them."""
    position = torch.arange(1, n_bands + 1) * (math.pi / n_bands)
    cycles = torch.linspace(0, math.log(n_bands - 1), channels // 2).exp()
    phase = position[:, None] * cycles
    return torch.cat([phase.sin(), phase.cos()], dim=1)


def build(
    channels: int = 24,
    layers: int = 2,
    kernel: int = 3,
    stride: int = 4,
    blocks: int = 2,
    block_channels: int = 20,
    bands: int = 16,
    heads: int = 4,
    trained_bands: bool = False,
    compression: float = 0.3,
    weight_norm: bool = True,
    batch_norm: bool = True,
    n_fft: int = 512,
    hop_length: int = 256,
    sample_rate: int = 16000,
    causal: bool = True,
    padding: str | None = None,
) -> SpectralEnhancer:
    """Build FastEnhancer, with the published sizes of FastEnhancer-T at 16 kHz as defaults.

    channels, layers, kernel: of the convolutions in encoder and decoder, an odd kernel in bins. stride: in bins, of
    the layers before and behind them, which see twice as many. blocks, block_channels, heads: of the RNNFormer blocks;
    block_channels a multiple of 2 and of heads. bands: that they see, at least 3. trained_bands: learn the product
    between bins and bands, which is otherwise fixed. compression: of magnitudes, above 0 and at most 1. weight_norm:
    normalise the weights of GRUs, attention and the last kernel. batch_norm: without it, every layer has a bias in its
    place; both are off in weights that were folded for inference. causal: must be True. Raises `UserError` naming the
    key that is out of range.
    """
    counts = dict(channels=channels, layers=layers, stride=stride, blocks=blocks, heads=heads)
    _check(counts, kernel, block_channels, bands, compression, n_fft, causal)
    n_bins = n_fft // 2 // stride

    def conv(c_in: int, c_out: int, size: int = 1) -> nn.Module:
        return kernels.Conv2d(c_in, c_out, (1, size), padding=(0, size // 2), bias=not batch_norm)

    def normed(layer: nn.Module, c_out: int) -> list[nn.Module]:
        return [layer, nn.BatchNorm2d(c_out)] if batch_norm else [layer]

    def between(rows: Tensor, c_in: int, c_out: int) -> nn.Module:
        matrix = ERBMatrix(rows, as_parameter=False)
        if trained_bands:
            matrix = nn.Linear(rows.shape[1], rows.shape[0], bias=False)
            matrix.weight = nn.Parameter(rows.clone())
        return nn.Sequential(matrix, *normed(conv(c_in, c_out), c_out))

    edge = dict(kernel_size=(1, 2 * stride), stride=(1, stride), padding=(0, stride // 2))
    first = kernels.Conv2d(2, channels, **edge, bias=not batch_norm)
    last = kernels.ConvTranspose2d(channels, 2, **edge)
    decoder = [
        nn.Sequential(
            *normed(conv(2 * channels, channels), channels),
            nn.SiLU(),
            *normed(conv(channels, channels, kernel), channels),
            nn.SiLU(),
        )
        for _ in range(layers)
    ]
    filters = linear_filterbank(n_bins, bands)
    core = FastEnhancer(
        nn.Sequential(*normed(first, channels), nn.SiLU()),
        nn.ModuleList(
            nn.Sequential(*normed(conv(channels, channels, kernel), channels), nn.SiLU()) for _ in range(layers)
        ),
        between(filters / filters.sum(dim=1, keepdim=True), channels, block_channels),
        StreamingSequential(
            RNNFormer(
                block_channels, bands, heads, None if block else positional_embedding(bands, block_channels), batch_norm
            )
            for block in range(blocks)
        ),
        between(filters.T, block_channels, channels),
        nn.ModuleList(decoder),
        nn.Sequential(*normed(conv(2 * channels, channels), channels), nn.SiLU(), last),
        compression,
    )
    if weight_norm:
        for block in core.blocks:
            normalise_weight(block.rnn, "weight_ih_l0")
            normalise_weight(block.rnn, "weight_hh_l0")
            normalise_weight(block.attn.qkv)
        normalise_weight(last, dim=None)  # of all its weights together
        nn.init.ones_(last.parametrizations.weight.original0)
    return SpectralEnhancer(core, STFT(n_fft, hop_length, "hann"), sample_rate, padding)


def _check(counts: dict, kernel: int, block_channels: int, bands: int, compression: float, n_fft: int, causal: bool):
    for key, value in counts.items():
        if value < 1:
            raise UserError(f"model.{key}={value}: must be at least 1")
    for key in ("layers", "blocks"):
        if counts[key] > MAX_LAYERS:
            raise UserError(f"model.{key}={counts[key]}: must be at most {MAX_LAYERS}")
    stride, heads = counts["stride"], counts["heads"]
    if kernel < 1 or kernel % 2 == 0:
        raise UserError(f"model.kernel={kernel}: must be odd, so that it sees as many bins on either side")
    if stride % 2 or n_fft % (2 * stride):
        raise UserError(f"model.stride={stride}: must be even, and divide half of n_fft={n_fft}")
    if block_channels < 2 or block_channels % 2 or block_channels % heads:
        raise UserError(f"model.block_channels={block_channels}: must be a positive multiple of 2 and of heads={heads}")
    if not 3 <= bands <= n_fft // 2 // stride:
        raise UserError(f"model.bands={bands}: must lie between 3 and n_fft / 2 / stride = {n_fft // 2 // stride}")
    if not 0 < compression <= 1:
        raise UserError(f"model.compression={compression}: must be above 0 and at most 1")
    if not causal:
        raise UserError("model.causal=False: FastEnhancer's GRUs run forward in time only; set streaming=causal")
