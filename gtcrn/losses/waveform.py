"""Loss terms on waveforms."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from gtcrn.losses.loss import Signals, Term

# Energy (sum of squares) below which a signal counts as silent, as in GTCRN's published loss. It keeps
# the quotients finite and confines the term to ±80 dB.
_FLOOR = 1e-8
_SILENCE = 1e-12  # the same for `output_snr`, in which quiet signals count as much as loud ones


class L1(Term):
    """The mean absolute difference of the samples."""

    def forward(self, estimate: Signals, target: Signals) -> Tensor:
        return F.l1_loss(estimate.wave, target.wave)


class SISDR(Term):
    """The negative scale-invariant signal-to-distortion ratio in dB, mean over the batch
    (Le Roux et al., SDR - half-baked or well done?, 2019).

    zero_mean: remove the mean of both signals first (the metric is then usually called SI-SNR).

    A silent target or estimate gives the constant 80 dB and no gradient.
    """

    def __init__(self, weight: float, zero_mean: bool = False):
        super().__init__(weight)
        self.zero_mean = zero_mean

    def forward(self, estimate: Signals, target: Signals) -> Tensor:
        y, s = estimate.wave, target.wave  # (B, N)
        if self.zero_mean:
            y, s = y - y.mean(dim=1, keepdim=True), s - s.mean(dim=1, keepdim=True)
        scale = (y * s).sum(dim=1, keepdim=True) / (_energy(s)[:, None] + _FLOOR)
        projection = scale * s
        ratio = _energy(projection) / (_energy(y - projection) + _FLOOR)
        return -10 * torch.log10(ratio + _FLOOR).mean()


class SNR(Term):
    """The negative signal-to-noise ratio in dB, mean over the batch, which depends on the level
    (Westhausen and Meyer, Dual-signal transformation LSTM network, 2020).

    A floor of -70 dB of full scale is added to the power of the noise, as published, and also to that of the target.
    The published loss was infinite for a silent target; this one is finite and still trains the model to be silent.
    """

    floor = 1e-7  # mean square

    def forward(self, estimate: Signals, target: Signals) -> Tensor:
        y, s = estimate.wave, target.wave  # (B, N)
        signal, noise = s.square().mean(dim=1), (y - s).square().mean(dim=1)
        return -10 * torch.log10((signal + self.floor) / (noise + self.floor)).mean()


class OutputSNR(Term):
    """The negative `output_snr`, mean over the batch, to train a model to reproduce the output of another."""

    def forward(self, estimate: Signals, target: Signals) -> Tensor:
        return -output_snr(estimate.wave, target.wave).mean()


def output_snr(estimate: Tensor, target: Tensor) -> Tensor:
    """Return the SNR in dB (B,) of each signal (B, N) to its target, at any level: at most 50, and 0 for silence."""
    signal, noise = _energy(target), _energy(estimate - target)
    return 10 * torch.log10((signal + _SILENCE) / (noise + 1e-5 * signal + _SILENCE))


def _energy(wave: Tensor) -> Tensor:
    """Return the energy (B,) of each wave (B, N)."""
    return wave.square().sum(dim=1)
