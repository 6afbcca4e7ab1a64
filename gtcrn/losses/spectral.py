"""Loss terms on spectra. S is a complex spectrum, |S| its magnitude, c the exponent that compresses it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from gtcrn.dsp.spectra import magnitude, power
from gtcrn.errors import UserError
from gtcrn.losses.loss import Signals, Term


def _stft(wave: Tensor, n_fft: int, hop_length: int, window: Tensor) -> Tensor:
    """Return the STFT (B, 2, T, F) of a wave (B, N). Zeros are padded, as it may be shorter than a window."""
    spec = torch.stft(
        wave, n_fft, hop_length, len(window), window, center=True, pad_mode="constant", return_complex=True
    )
    return torch.view_as_real(spec).permute(0, 3, 2, 1)


class SpectralTerm(Term):
    """A term on compressed spectra: the model's own spectrum where it has one, else the STFT of its waveform.

    compression: c in (0, 1]; 1 compares the spectra as they are, a smaller one gives quiet parts more weight.
    n_fft, hop_length: samples, of the STFT (periodic square-root Hann) for models without a spectrum.

    Raises UserError if a setting is out of range.
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
        """Return the spectrum (B, 2, T, F) of the signals."""
        if signals.spec is not None:
            return signals.spec
        window = torch.hann_window(self.n_fft, dtype=signals.wave.dtype, device=signals.wave.device).sqrt()
        return _stft(signals.wave, self.n_fft, self.hop_length, window)


class CompressedComplex(SpectralTerm):
    """The term mean |S_c - T_c|², where S_c = S / |S|^(1 - c) keeps the phase and compresses the magnitude.

    The mean over time and frequency of the squared complex distance is MSE(real parts) + MSE(imaginary parts).
    """

    def forward(self, estimate: Signals, target: Signals) -> Tensor:
        return self.distance(self.spectrum(estimate), self.spectrum(target))

    def distance(self, spec: Tensor, other: Tensor) -> Tensor:
        """Return the distance of two spectra (B, 2, T, F)."""
        compressed, wanted = (x * power(x)[:, None] ** ((self.compression - 1) / 2) for x in (spec, other))
        return (compressed - wanted).square().sum(dim=1).mean()


class Consistency(CompressedComplex):
    """The distance of the model's spectrum from that of its own waveform, measured as `CompressedComplex` does.

    They differ since overlapping frames of a spectrum need not agree (Wisdom et al., Differentiable consistency
    constraints, 2019). 0 for models without a spectrum.

    Raises UserError if the signals do not say how the model makes its spectra.
    """

    def forward(self, estimate: Signals, target: Signals) -> Tensor:
        if estimate.spec is None:
            return 0 * estimate.wave.sum()
        again = estimate.analysis and estimate.analysis(estimate.wave)
        if again is None:
            raise UserError("a consistency term needs the model's analysis: Signals(wave, spec, enhancer.spectra)")
        return self.distance(estimate.spec, again)


class CompressedMagnitude(SpectralTerm):
    """The term mean (|S|^c - |T|^c)²."""

    def forward(self, estimate: Signals, target: Signals) -> Tensor:
        # a root of the power, not a power of the magnitude, which is a root itself
        compressed, wanted = (power(self.spectrum(signals)) ** (self.compression / 2) for signals in (estimate, target))
        return F.mse_loss(compressed, wanted)


class MultiResolutionSTFT(Term):
    """The spectral convergence plus the distance of log magnitudes, averaged over resolutions, always
    computed from the waveform (Yamamoto et al., Parallel WaveGAN, 2020, eq. 4-7).

    resolutions: (n_fft, hop, window), each in samples; Hann windows.
    hf_weight, hf_cutoff, sample_rate: emphasis of the band above `hf_cutoff` Hz, None for none; around the cutoff, the
        factor of the magnitudes rises smoothly from 1 to `hf_weight`. It changes the spectral convergence alone: in a
        distance of logarithms a common factor cancels.

    Raises UserError if a setting is out of range.
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
        # norms are over the batch, so that one silent target does not outweigh the rest
        convergence = torch.linalg.vector_norm(emphasis * (s - y)) / torch.linalg.vector_norm(emphasis * s)
        return convergence + F.l1_loss(y.log(), s.log())

    def _emphasis(self, magnitudes: Tensor, n_fft: int) -> Tensor:
        """Return the factor (F,) of each bin of magnitudes (B, T, F)."""
        bins = torch.arange(magnitudes.shape[2], dtype=magnitudes.dtype, device=magnitudes.device)
        if self.hf_cutoff is None or self.sample_rate is None:
            return torch.ones_like(bins)
        cutoff = int(self.hf_cutoff * n_fft / self.sample_rate)
        width = max(1, (len(bins) - cutoff) // 4)
        return 1 + (self.hf_weight - 1) * torch.sigmoid((bins - cutoff) / width)
