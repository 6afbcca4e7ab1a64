"""Terms on spectra. S is a complex spectrum, |S| its magnitude, c the exponent that compresses it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from gtcrn.dsp import magnitude
from gtcrn.errors import UserError
from gtcrn.losses.loss import Signals, Term


def _stft(wave: Tensor, n_fft: int, hop_length: int, window: Tensor) -> Tensor:
    """(B, N) -> (B, 2, T, F). Zeros stand beyond the ends: a clip may be shorter than a window."""
    spec = torch.stft(
        wave, n_fft, hop_length, len(window), window, center=True, pad_mode="constant", return_complex=True
    )
    return torch.view_as_real(spec).permute(0, 3, 2, 1)


class SpectralTerm(Term):
    """A term on compressed spectra: the model's own where it has one, else the STFT of its waveform.

    compression: c in (0, 1]; 1 compares the spectra as they are, less gives quiet parts more say.
    n_fft, hop_length: samples; the STFT (periodic square-root Hann) of models without a spectrum.
    """

    def __init__(self, weight: float, compression: float, n_fft: int = 512, hop_length: int = 256):
        super().__init__(weight)
        if not 0 < compression <= 1:
            raise UserError(f"compression={compression} of a loss term: must be above 0 and at most 1")
        if not 0 < hop_length <= n_fft:
            raise UserError(f"hop_length={hop_length} of a loss term: must be from 1 to n_fft={n_fft}")
        self.compression = compression
        self.n_fft = n_fft
        self.hop_length = hop_length

    def spectrum(self, signals: Signals) -> Tensor:
        """(B, 2, T, F)"""
        if signals.spec is not None:
            return signals.spec
        window = torch.hann_window(self.n_fft, dtype=signals.wave.dtype, device=signals.wave.device).sqrt()
        return _stft(signals.wave, self.n_fft, self.hop_length, window)


class CompressedComplex(SpectralTerm):
    """mean |S_c - T_c|², where S_c = S / |S|^(1 - c) keeps the phase and compresses the magnitude.

    The mean is over time and frequency of the squared complex distance, which is
    MSE(real parts) + MSE(imaginary parts).
    """

    def forward(self, estimate: Signals, target: Signals) -> Tensor:
        difference = self._compressed(estimate) - self._compressed(target)
        return difference.square().sum(dim=1).mean()

    def _compressed(self, signals: Signals) -> Tensor:
        spec = self.spectrum(signals)
        return spec / magnitude(spec)[:, None] ** (1 - self.compression)


class CompressedMagnitude(SpectralTerm):
    """mean (|S|^c - |T|^c)²"""

    def forward(self, estimate: Signals, target: Signals) -> Tensor:
        ours, theirs = (magnitude(self.spectrum(signals)) ** self.compression for signals in (estimate, target))
        return F.mse_loss(ours, theirs)


class MultiResolutionSTFT(Term):
    """Spectral convergence plus the distance of log magnitudes, averaged over resolutions, always
    computed from the waveform (Yamamoto et al., Parallel WaveGAN, 2020, eq. 4-7).

    resolutions: (n_fft, hop, window), each in samples; Hann windows.
    hf_weight, hf_cutoff, sample_rate: emphasis of what lies above `hf_cutoff` Hz, None for none; magnitudes rise
    smoothly from 1 to `hf_weight` times themselves. The spectral convergence alone feels it: in a distance of
    logarithms a factor common to both cancels.
    """

    def __init__(
        self,
        weight: float,
        resolutions: Sequence[Sequence[int]],
        hf_weight: float = 1.0,
        hf_cutoff: float | None = None,
        sample_rate: int | None = None,
    ):
        super().__init__(weight)
        if not resolutions:
            raise UserError("resolutions of a loss term is empty: give at least one [n_fft, hop, window]")
        for resolution in resolutions:
            if len(resolution) != 3 or not 0 < resolution[1] <= resolution[2] <= resolution[0]:
                raise UserError(
                    f"resolution {list(resolution)} of a loss term: must be [n_fft, hop, window], "
                    "n_fft ≥ window ≥ hop > 0"
                )
        if not 0 <= hf_weight < float("inf"):
            raise UserError(f"hf_weight={hf_weight} of a loss term: must be a number of at least 0")
        if hf_cutoff is not None:
            if sample_rate is None:
                raise UserError(
                    f"hf_cutoff={hf_cutoff} of a loss term is in Hz: it needs sample_rate=${{model.sample_rate}}"
                )
            if not 0 < hf_cutoff < sample_rate / 2:
                raise UserError(
                    f"hf_cutoff={hf_cutoff} of a loss term: must be above 0 and below half of "
                    f"sample_rate={sample_rate} Hz"
                )
        self.resolutions = [tuple(resolution) for resolution in resolutions]
        self.hf_weight = hf_weight
        self.hf_cutoff = hf_cutoff
        self.sample_rate = sample_rate

    def forward(self, estimate: Signals, target: Signals) -> Tensor:
        return torch.stack([self._one(estimate.wave, target.wave, *r) for r in self.resolutions]).mean()

    def _one(self, y: Tensor, s: Tensor, n_fft: int, hop_length: int, window_length: int) -> Tensor:
        window = torch.hann_window(window_length, dtype=y.dtype, device=y.device)
        # the floor of 1e-7 in the power is the published one; it also bounds both quotients in silence
        y, s = (magnitude(_stft(wave, n_fft, hop_length, window), eps=1e-7) for wave in (y, s))
        emphasis = self._emphasis(s, n_fft)
        # norms over the batch: one silent target does not outweigh the rest
        convergence = torch.linalg.vector_norm(emphasis * (s - y)) / torch.linalg.vector_norm(emphasis * s)
        return convergence + F.l1_loss(y.log(), s.log())

    def _emphasis(self, magnitudes: Tensor, n_fft: int) -> Tensor:
        """The factor of every bin of (B, T, F): (F,)"""
        bins = torch.arange(magnitudes.shape[2], dtype=magnitudes.dtype, device=magnitudes.device)
        if self.hf_cutoff is None or self.sample_rate is None:
            return torch.ones_like(bins)
        cutoff = int(self.hf_cutoff * n_fft / self.sample_rate)
        width = max(1, (len(bins) - cutoff) // 4)
        return 1 + (self.hf_weight - 1) * torch.sigmoid((bins - cutoff) / width)
