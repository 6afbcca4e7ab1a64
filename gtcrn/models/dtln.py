"""DTLN: dual-signal transformation LSTM network (Westhausen and Meyer, Interspeech 2020).

    frame -> spectrum -> |S| -> separation -> mask · spectrum -> frame
          -> learned basis -> norm -> separation -> mask · basis -> frame

It has two stages, each with its own mask: the first masks the magnitude and keeps the noisy phase, the second
masks a learned basis of the samples and can correct the phase. Windows are rectangular.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gtcrn.dsp.spectra import irfft, magnitude, rfft
from gtcrn.dsp.stft import Frames
from gtcrn.errors import UserError
from gtcrn.models.enhancer import MAX_LAYERS, FrameEnhancer, StreamingModel
from gtcrn.streaming import CausalLSTM, Stateful
from gtcrn.streaming.state import State


class InstantLayerNorm(nn.LayerNorm):
    """A layer normalisation of each frame alone: (…, size) -> (…, size)."""

    def __init__(self, size: int):
        super().__init__(size, eps=1e-7)


class LogInstantLayerNorm(InstantLayerNorm):
    """A layer normalisation of log magnitudes (…, size), which removes the influence of the level."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(torch.log(x + 1e-7))


class Separation(Stateful):
    """A separation core, which estimates a mask between 0 and 1 by LSTMs along time.

    It maps (B, T, size), {"lstm": nested} to a mask (B, T, size) and the next state.
    """

    def __init__(self, size: int, lstm_size: int, layers: int, dropout: float):
        super().__init__()
        self.lstm = CausalLSTM(size, lstm_size, layers, dropout)
        self.dense = nn.Linear(lstm_size, size)

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        x, lstm = self.lstm(x, state["lstm"])
        return torch.sigmoid(self.dense(x)), {"lstm": lstm}


class DTLN(StreamingModel):
    """The core of DTLN: frames (B, 1, T, n_fft), state -> enhanced frames (B, 1, T, n_fft), next state.

    The published decoder was trained on frames that are summed where they overlap. Our overlap-add has perfect
    reconstruction and so averages them; `gain` = n_fft / hop makes up for this.
    """

    def __init__(
        self,
        magnitude_norm: nn.Module,
        magnitude_separation: Separation,
        encoder: nn.Linear,
        basis_norm: InstantLayerNorm,
        basis_separation: Separation,
        decoder: nn.Linear,
        gain: float,
    ):
        super().__init__()
        self.magnitude_norm = magnitude_norm
        self.magnitude_separation = magnitude_separation
        self.encoder = encoder
        self.basis_norm = basis_norm
        self.basis_separation = basis_separation
        self.decoder = decoder
        self.gain = gain

    def forward(self, frames: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        state = self.start(frames.shape[0], state)
        spec = rfft(frames)  # (B, 2, T, n_fft // 2 + 1)
        features = self.magnitude_norm(magnitude(spec, eps=1e-20))  # a larger eps would change the logarithm
        mask, first = self.magnitude_separation(features, state["magnitude_separation"])
        basis = self.encoder(irfft(mask[:, None] * spec)[:, 0])  # (B, T, basis_size)
        mask, second = self.basis_separation(self.basis_norm(basis), state["basis_separation"])
        frames = self.gain * self.decoder(mask * basis)[:, None]
        return frames, {"magnitude_separation": first, "basis_separation": second}


def build(
    lstm_size: int = 128,
    layers: int = 2,
    basis_size: int = 256,
    dropout: float = 0.25,
    norm_stft: bool = False,
    n_fft: int = 512,
    hop_length: int = 128,
    sample_rate: int = 16000,
    causal: bool = True,
    padding: str | None = None,
) -> FrameEnhancer:
    """Build DTLN, with the published sizes as defaults.

    lstm_size, layers: of the LSTMs in each separation core. basis_size: of the learned basis. dropout:
    between LSTMs in training. norm_stft: normalise the log magnitude of every frame against variations of
    level, published as DTLN_norm. n_fft, hop_length: samples of a frame and between frames.
    causal: must be True. Raises `UserError` naming the key that is out of range.
    """
    for key, value in {"lstm_size": lstm_size, "layers": layers, "basis_size": basis_size}.items():
        if value < 1:
            raise UserError(f"model.{key}={value}: must be at least 1")
    if layers > MAX_LAYERS:
        raise UserError(f"model.layers={layers}: must be at most {MAX_LAYERS}")
    if not 0 <= dropout < 1:
        raise UserError(f"model.dropout={dropout}: must be at least 0 and less than 1")
    if not causal:
        raise UserError("model.causal=False: DTLN's LSTMs run forward in time only; set streaming=causal")
    framing = Frames(n_fft, hop_length)
    n_bins = n_fft // 2 + 1
    core = DTLN(
        LogInstantLayerNorm(n_bins) if norm_stft else nn.Identity(),
        Separation(n_bins, lstm_size, layers, dropout),
        nn.Linear(n_fft, basis_size, bias=False),
        InstantLayerNorm(basis_size),
        Separation(basis_size, lstm_size, layers, dropout),
        nn.Linear(basis_size, n_fft, bias=False),
        gain=n_fft / hop_length,
    )
    return FrameEnhancer(core, framing, sample_rate, padding)
