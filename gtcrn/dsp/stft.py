"""Frames of a signal and their overlap-add with explicit state, by the same code for a whole signal and for one hop."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gtcrn.dsp.spectra import irfft, rfft
from gtcrn.dsp.window import analysis_window, synthesis_window
from gtcrn.errors import UserError

LONGEST_FRAME = 8192  # samples, 170 ms at 48 kHz


class Frames(nn.Module):
    """The conversion of a signal into overlapping frames and back by overlap-add, with perfect reconstruction.

    A frame ends with the newest hop, so it can be computed as soon as that hop has arrived:

        samples   | past (n_fft - hop) | hop |
        frame     [       n_fft              ]

    The state of each direction is n_fft - hop samples. Analysis followed by synthesis is the identity,
    delayed by `delay` = n_fft - hop samples.

    window: one of `gtcrn.dsp.window.WINDOWS`. Raises UserError if n_fft and hop do not fit together.
    """

    window: Tensor
    synthesis_window: Tensor

    def __init__(self, n_fft: int = 512, hop_length: int = 256, window: str = "rectangular"):
        super().__init__()
        if not 4 <= n_fft <= LONGEST_FRAME or n_fft % 2:
            raise UserError(f"model.n_fft={n_fft}: must be even, at least 4 and at most {LONGEST_FRAME}")
        if not 1 <= hop_length <= n_fft // 2:
            raise UserError(f"model.hop_length={hop_length}: must be at least 1 and at most half of n_fft={n_fft}")
        self.n_fft = n_fft
        self.hop_length = hop_length
        self.delay = n_fft - hop_length
        self.window_name = window
        before = analysis_window(window, n_fft)
        if window == "hann":  # to the last bit as published models had it, since one that takes logarithms hears it
            before = torch.hann_window(n_fft, device="cpu").double().numpy()
        after = synthesis_window(before, hop_length)
        self.register_buffer("window", torch.from_numpy(before).float(), persistent=False)
        self.register_buffer("synthesis_window", torch.from_numpy(after).float(), persistent=False)

    def initial_state(self, batch_size: int) -> Tensor:
        """Return the state of analysis or synthesis before the signal begins: zeros (B, n_fft - hop)."""
        return self.window.new_zeros(batch_size, self.delay)

    def analysis(self, wave: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        """Return the frames (B, 1, T, n_fft) of a wave (B, T · hop) that follows `past` (B, n_fft - hop); next past."""
        wave = torch.cat([past, wave], dim=1)
        frames = wave.unfold(1, self.n_fft, self.hop_length) * self.window  # (B, T, n_fft)
        return frames[:, None], wave[:, wave.shape[1] - self.delay :]

    def synthesis(self, frames: Tensor, overlap: Tensor) -> tuple[Tensor, Tensor]:
        """Add frames (B, 1, T, n_fft) to `overlap` (B, n_fft - hop); return T · hop complete samples, next overlap."""
        wave = self._overlap_add(frames[:, 0] * self.synthesis_window)  # (B, T · hop + delay)
        wave = wave + F.pad(overlap, (0, wave.shape[1] - self.delay))
        complete = frames.shape[2] * self.hop_length
        return wave[:, :complete], wave[:, complete:]

    def tail_gain(self, n_frames: int) -> Tensor:
        """Return the share (n_fft - hop,) of a whole sum of windows that `n_frames` frames leave in the overlap."""
        squares = (self.window * self.synthesis_window).expand(1, n_frames, -1)
        return self._overlap_add(squares)[0, n_frames * self.hop_length :]

    def _overlap_add(self, frames: Tensor) -> Tensor:
        """Return the sum (B, (T - 1) · hop + n_fft) of frames (B, T, n_fft), each at its time."""
        length = (frames.shape[1] - 1) * self.hop_length + self.n_fft
        folded = F.fold(frames.transpose(1, 2), (1, length), (1, self.n_fft), stride=(1, self.hop_length))
        return folded[:, 0, 0]


class STFT(Frames):
    """The STFT: like `Frames`, but of spectra (B, 2, T, n_fft // 2 + 1)."""

    def __init__(self, n_fft: int = 512, hop_length: int = 256, window: str = "hann_sqrt"):
        super().__init__(n_fft, hop_length, window)

    def analysis(self, wave: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        """Return the spectrum (B, 2, T, n_fft // 2 + 1) of a wave (B, T · hop) after `past`, and the next past."""
        frames, past = super().analysis(wave, past)
        return rfft(frames), past

    def synthesis(self, spec: Tensor, overlap: Tensor) -> tuple[Tensor, Tensor]:
        """Add the frames of a spectrum (B, 2, T, n_fft // 2 + 1) to `overlap`; return as `Frames.synthesis` does."""
        spec = spec.to(self.window.dtype)  # autocast may have made it half precision, which has no inverse FFT
        return super().synthesis(irfft(spec), overlap)
