"""Framing and STFT without FFT operators, and DTLN, which has them inside."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gtcrn.dsp.spectra import irfft
from gtcrn.dsp.stft import STFT, Frames
from gtcrn.export.optimize.recurrent import LSTMStep
from gtcrn.export.optimize.rules import replacement
from gtcrn.export.optimize.weights import convolution, linear
from gtcrn.models.dtln import DTLN, Separation
from gtcrn.models.enhancer import StreamingModel
from gtcrn.streaming.state import State


def magnitude(spec: Tensor, eps: float = 1e-12) -> Tensor:
    """Return the magnitude (1, 1, 1, F) of (1, 2, 1, F), as `gtcrn.dsp.spectra.magnitude` does."""
    return torch.sqrt(spec.square().sum(dim=1, keepdim=True) + eps)


class ComplexMask(nn.Module):
    """The product of a complex mask and a spectrum of one frame; all are (1, 2, 1, F)."""

    def __init__(self):
        super().__init__()
        # i · (re + i · im) = -im + i · re
        self.turn = convolution(torch.tensor([[0.0, -1.0], [1.0, 0.0]])[..., None, None])

    def forward(self, mask: Tensor, spec: Tensor) -> Tensor:
        real, imaginary = mask.split(1, dim=1)
        return real * spec + imaginary * self.turn(spec)


class RealDFT(nn.Module):
    """The spectrum of N real samples as two products with small matrices, the first step of an FFT.

    With N = P · Q, sample n = Q · p + q and bin k = a + P · b, after Cooley and Tukey:

        X[a + P · b] = sum over q of exp(-2πi q (a + P · b) / N) · (sum over p of exp(-2πi p a / P) · x[Q · p + q])

    Samples are real: b up to Q / 2 is enough.
    """

    def __init__(self, n: int):
        super().__init__()
        self.bins = n // 2 + 1
        self.p, self.q = _factors(n)
        a, q = torch.arange(self.p), torch.arange(self.q)
        b = torch.arange(self.q // 2 + 1)
        cos, sin = _phases(a[:, None] * a, self.p)  # (A, P)
        outer = torch.stack([cos, sin], dim=1).flatten(0, 1)  # (A · 2, P)
        cos, sin = _phases(q[:, None] * (a[:, None, None] + self.p * b), n)  # (A, Q, B)
        inner = torch.cat([torch.cat([cos, sin], dim=2), torch.cat([-sin, cos], dim=2)], dim=1)  # (A, 2 · Q, 2 · B)
        # the inverse is the transposed, with each bin as often as it occurs in the whole spectrum
        bins = a[:, None] + self.p * b
        share = torch.where(bins % (n // 2) == 0, 1, 2) * (bins < self.bins) / n  # (A, B)
        inverse = inner.transpose(1, 2) * share.repeat(1, 2)[..., None]
        for name, matrix in {"outer": outer, "inner": inner, "inner_inverse": inverse}.items():
            self.register_buffer(name, matrix.float(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the spectrum (1, 2, 1, N / 2 + 1) of (1, N)."""
        rows = (self.outer @ x.reshape(self.p, self.q)).reshape(self.p, 1, -1)  # (A, 1, 2 · Q)
        bins = (rows @ self.inner).reshape(self.p, 2, -1).permute(1, 2, 0)  # (2, B, A)
        return bins.reshape(1, 2, 1, -1)[..., : self.bins]

    def inverse(self, spec: Tensor) -> Tensor:
        """Return the samples (1, N) of a spectrum (1, 2, 1, N / 2 + 1)."""
        bins = F.pad(spec, (0, self.p * (self.q // 2 + 1) - self.bins)).reshape(2, -1, self.p)  # (2, B, A)
        rows = bins.permute(2, 0, 1).reshape(self.p, 1, -1) @ self.inner_inverse  # (A, 1, 2 · Q)
        return (self.outer.T @ rows.reshape(2 * self.p, self.q)).reshape(1, -1)


def _factors(n: int) -> tuple[int, int]:
    """Return P and the even Q of an even n for which the matrices are smallest."""
    evens = [q for q in range(2, n + 1, 2) if n % q == 0]
    q = min(evens, key=lambda q: 2 * (n // q) ** 2 + 2 * n * (q + 2))
    return n // q, q


def _phases(steps: Tensor, n: int) -> Tensor:
    """Return (2, …), cosine and negative sine of steps of 2π / n."""
    angle = (steps % n).double() * (2 * math.pi / n)
    return torch.stack([angle.cos(), -angle.sin()])


class OneFrame(Frames):
    """Frames for one hop of one stream."""

    def __init__(self, framing: Frames):
        super().__init__(framing.n_fft, framing.hop_length, framing.window_name)
        self.window, self.synthesis_window = framing.window, framing.synthesis_window

    def analysis(self, wave: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        """Return the frame (1, 1, 1, n_fft) of the newest (1, hop) and the past (1, n_fft - hop), and the next past."""
        wave = torch.cat([past, wave], dim=1)
        return (wave * self.window)[None, None], wave[:, self.hop_length :]

    def synthesis(self, frames: Tensor, overlap: Tensor) -> tuple[Tensor, Tensor]:
        """Return the hop that (1, 1, 1, n_fft) and the overlap (1, n_fft - hop) complete, and the next overlap."""
        wave = frames.flatten(1) * self.synthesis_window + F.pad(overlap, (0, self.hop_length))
        return wave.split([self.hop_length, self.delay], dim=1)


class OneSpectrum(OneFrame):
    """An STFT for one hop of one stream, with spectra (1, 2, 1, n_fft / 2 + 1)."""

    def __init__(self, stft: STFT):
        super().__init__(stft)
        self.dft = RealDFT(stft.n_fft)

    def analysis(self, wave: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        frames, past = super().analysis(wave, past)
        return self.dft(frames), past

    def synthesis(self, spec: Tensor, overlap: Tensor) -> tuple[Tensor, Tensor]:
        return super().synthesis(self.dft.inverse(spec), overlap)


@replacement.register
def replace_frames(framing: Frames, recurrence: str) -> OneFrame:
    return OneFrame(framing)


@replacement.register
def replace_stft(framing: STFT, recurrence: str) -> OneSpectrum:
    return OneSpectrum(framing)


@replacement.register
def replace_separation(separation: Separation, recurrence: str) -> Separation:
    separation.lstm = LSTMStep(separation.lstm)
    return separation


class OneStepDTLN(StreamingModel):
    """DTLN for one frame, with one product for the inverse transform and the encoder behind it."""

    def __init__(self, dtln: DTLN):
        super().__init__()
        self.dft = RealDFT(dtln.encoder.in_features)
        self.magnitude_norm, self.magnitude_separation = dtln.magnitude_norm, dtln.magnitude_separation
        basis = torch.eye(2 * self.dft.bins).view(-1, 2, 1, self.dft.bins)
        frames = irfft(basis)[:, 0, 0]  # of every real and imaginary part
        self.encoder = linear(dtln.encoder.weight @ frames.T)
        self.basis_norm, self.basis_separation = dtln.basis_norm, dtln.basis_separation
        self.decoder = linear(dtln.gain * dtln.decoder.weight)

    def forward(self, frames: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Return the enhanced frame (1, 1, 1, n_fft) of a frame, and the next state."""
        state = self.start(frames.shape[0], state)
        spec = self.dft(frames)
        features = self.magnitude_norm(magnitude(spec, eps=1e-20)[0])  # (1, 1, bins)
        mask, first = self.magnitude_separation(features, state["magnitude_separation"])
        basis = self.encoder((mask[None] * spec).reshape(1, 1, -1))
        mask, second = self.basis_separation(self.basis_norm(basis), state["basis_separation"])
        frames = self.decoder(mask * basis)[None]
        return frames, {"magnitude_separation": first, "basis_separation": second}


@replacement.register
def replace_dtln(dtln: DTLN, recurrence: str) -> OneStepDTLN:
    return OneStepDTLN(dtln)
