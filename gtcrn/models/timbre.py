"""Timbre restoration: a causal U-Net on samples that restores what a denoiser removed (infometa/train, 2025).

    wave -> conv -> encoder (convolutions of stride s, residual blocks) -> GRU ─┐
     │       └────────────── skips, concatenated ────────────┐                  │
     └─ + ── scale · gate · conv <- decoder (transposed convolutions, residual blocks)

It predicts a correction that is added to its input. The published code carried only the state of its GRU from
chunk to chunk, so its stream drifted from its whole-utterance output; here every convolution has a state too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm as normalise_weight

from gtcrn.errors import UserError
from gtcrn.models.blocks import Encoder, StreamingSequential
from gtcrn.models.enhancer import MAX_LAYERS, StreamingModel, WaveEnhancer
from gtcrn.streaming import CausalConv1d, CausalConvTranspose1d, CausalGRU, CausalLSTM, Stateful
from gtcrn.streaming.state import State

BOTTLENECKS = {"gru": CausalGRU, "lstm": CausalLSTM, "none": None}
LONGEST_HOP = 2**16  # samples
SLOPE = 0.2  # of every LeakyReLU
CONVOLUTIONS = (nn.Conv1d, nn.ConvTranspose1d)


class ActivatedConv(Stateful):
    """A convolution and a LeakyReLU."""

    def __init__(self, conv: CausalConv1d | CausalConvTranspose1d):
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        x, conv = self.conv(x, state["conv"])
        return F.leaky_relu(x, SLOPE), {"conv": conv}


class ResidualBlock(Stateful):
    """A residual block x + conv(LeakyReLU(conv(x))) with kernels of 3 samples: (B, C, T) -> (B, C, T)."""

    def __init__(self, channels: int):
        super().__init__()
        self.first = ActivatedConv(CausalConv1d(channels, channels, 3))
        self.second = CausalConv1d(channels, channels, 3)

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        y, first = self.first(x, state["first"])
        y, second = self.second(y, state["second"])
        return x + y, {"first": first, "second": second}


class RecurrentBottleneck(Stateful):
    """Recurrent layers along time with a projection: (B, C, T) -> (B, C, T)."""

    def __init__(self, rnn: CausalGRU | CausalLSTM, channels: int):
        super().__init__()
        self.rnn = rnn
        self.projection = nn.Linear(rnn.hidden_size, channels)

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        x, rnn = self.rnn(x.transpose(1, 2), state["rnn"])
        return self.projection(x).transpose(1, 2), {"rnn": rnn}


class DecoderBlock(Stateful):
    """An upsampling that is merged with the encoder's output of its size: (B, C, T) -> (B, C', T · stride)."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int):
        super().__init__()
        self.upsample = ActivatedConv(CausalConvTranspose1d(in_channels, out_channels, kernel, stride=stride))
        self.merge = ActivatedConv(CausalConv1d(2 * out_channels, out_channels, 3))
        self.residual = ResidualBlock(out_channels)

    def forward(self, x: Tensor, skip: Tensor, state: State) -> tuple[Tensor, State]:
        x, upsample = self.upsample(x, state["upsample"])
        x, merge = self.merge(torch.cat([x, skip], dim=1), state["merge"])
        x, residual = self.residual(x, state["residual"])
        return x, {"upsample": upsample, "merge": merge, "residual": residual}


class Timbre(StreamingModel):
    """The core of the timbre restorer: wave (B, 1, N), state -> restored wave (B, 1, N), next state.

    N is a multiple of the product of all strides. gate: slope g of tanh(g · |wave|), which multiplies the correction,
    so that silence stays silent; None for no gate. limiter: l of the soft limit y / (1 + l · |y|); in evaluation the
    output is clamped to [-1, 1] too.
    """

    def __init__(
        self,
        encoder: Encoder,
        bottleneck: RecurrentBottleneck | StreamingSequential,
        decoder: nn.ModuleList,
        output: CausalConv1d,
        gate: float | None,
        limiter: float,
    ):
        super().__init__()
        self.encoder = encoder
        self.bottleneck = bottleneck
        self.decoder = decoder
        self.output = output
        self.gate = gate
        self.limiter = limiter
        self.residual_scale = nn.Parameter(torch.full((1,), 0.1))

    def forward(self, wave: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        state = self.start(wave.shape[0], state)
        (*skips, x), encoder = self.encoder(wave, state["encoder"])  # (B, c0, N), (B, c1, N / s1), …
        x, bottleneck = self.bottleneck(x, state["bottleneck"])
        decoder = {}
        for (name, block), skip in zip(self.decoder.named_children(), reversed(skips), strict=True):
            x, decoder[name] = block(x, skip, state["decoder"][name])
        x, output = self.output(x, state["output"])
        next_state = {"encoder": encoder, "bottleneck": bottleneck, "decoder": decoder, "output": output}
        return self._corrected(wave, self.residual_scale * x), next_state

    def _corrected(self, wave: Tensor, correction: Tensor) -> Tensor:
        if self.gate is not None:
            correction = correction * torch.tanh(self.gate * wave.abs())
        y = wave + correction
        y = y / (1 + self.limiter * y.abs())
        return y if self.training else y.clamp(-1, 1)


def build(
    channels: Sequence[int] = (64, 128, 256, 512),
    strides: Sequence[int] = (2, 2, 2),
    kernel: int = 7,
    bottleneck: str = "gru",
    bottleneck_layers: int = 2,
    weight_norm: bool = True,
    gate: float | None = 30.0,
    limiter: float = 0.1,
    hop_length: int = 480,
    sample_rate: int = 48000,
    causal: bool = True,
    padding: str | None = None,
) -> WaveEnhancer:
    """Build the timbre restorer, with the published sizes as defaults.

    channels: at the full rate and after each stride. kernel: samples that every convolution sees, except in the
    residual blocks. bottleneck: `gru`, `lstm` or `none`, as wide as the last of `channels`. weight_norm: normalise
    the weights of all convolutions. gate, limiter: see `Timbre`. hop_length: samples that a stream takes at a time.
    causal: must be True. padding: None or `zeros`. Raises `UserError` naming the key that is out of range.
    """
    _check(channels, strides, kernel, bottleneck, bottleneck_layers, gate, limiter, hop_length, causal, padding)
    encoder = [ActivatedConv(CausalConv1d(1, channels[0], kernel))]
    decoder = []
    for c_in, c_out, stride in zip(channels[:-1], channels[1:], strides, strict=True):
        down = ActivatedConv(CausalConv1d(c_in, c_out, kernel, stride=stride))
        encoder.append(StreamingSequential([down, ResidualBlock(c_out)]))
        decoder.insert(0, DecoderBlock(c_out, c_in, kernel, stride))
    if rnn := BOTTLENECKS[bottleneck]:
        middle = RecurrentBottleneck(rnn(channels[-1], channels[-1], bottleneck_layers), channels[-1])
    else:
        middle = StreamingSequential()
    output = CausalConv1d(channels[0], 1, kernel)
    core = Timbre(Encoder(encoder), middle, nn.ModuleList(decoder), output, gate, limiter)
    if weight_norm:
        for layer in core.modules():
            if isinstance(layer, CONVOLUTIONS):
                normalise_weight(layer)
    return WaveEnhancer(core, sample_rate, hop_length)


def _check(channels, strides, kernel, bottleneck, bottleneck_layers, gate, limiter, hop_length, causal, padding):
    for key, values in {"channels": channels, "strides": strides}.items():
        whole = isinstance(values, Sequence) and all(type(value) is int and value > 0 for value in values)
        if not whole or not values:
            raise UserError(f"model.{key}={values}: must be a list of whole numbers of at least 1")
    if len(channels) > MAX_LAYERS:
        raise UserError(f"model.channels: {len(channels)} numbers, and there may be {MAX_LAYERS}")
    if len(channels) != len(strides) + 1:
        raise UserError(
            f"model.channels={list(channels)}: must be one number more than model.strides={list(strides)}, "
            "that of the full rate"
        )
    if kernel < max(strides):
        raise UserError(f"model.kernel={kernel}: must be at least the largest stride, {max(strides)}")
    if bottleneck not in BOTTLENECKS:
        raise UserError(f"model.bottleneck={bottleneck}: must be one of {', '.join(BOTTLENECKS)}")
    if not 1 <= bottleneck_layers <= MAX_LAYERS:
        raise UserError(f"model.bottleneck_layers={bottleneck_layers}: must lie between 1 and {MAX_LAYERS}")
    if gate is not None and not 0 < gate < math.inf:
        raise UserError(f"model.gate={gate}: must be above 0, or null for no gate")
    if not 0 <= limiter < math.inf:
        raise UserError(f"model.limiter={limiter}: must be 0, for no limit, or above")
    if not 1 <= hop_length <= LONGEST_HOP or hop_length % math.prod(strides):
        raise UserError(
            f"model.hop_length={hop_length}: must be a multiple of the strides' product, {math.prod(strides)}, and at "
            f"most {LONGEST_HOP}"
        )
    if not causal:
        raise UserError("model.causal=False: the timbre restorer is causal in every layer; set streaming=causal")
    if padding not in (None, "zeros"):
        raise UserError(f"padding={padding}: a model of samples knows zeros alone; set padding=zeros")
