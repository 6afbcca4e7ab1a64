"""Terms on waveforms."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from gtcrn.losses.loss import Signals, Term

# Energy (sum of squares) below which a signal counts as silent, as in GTCRN's published loss. It keeps
# the quotients finite and confines the term to ±80 dB.
_FLOOR = 1e-8
_SILENCE = 1e-12  # the same where quiet signals count as much as loud ones


class L1(Term):
    """Mean absolute difference of the samples."""

    def forward(self, estimate: Signals, target: Signals) -> Tensor:
        return F.l1_loss(estimate.wave, target.wave)


class SISDR(Term):
    """Negative scale-invariant signal-to-distortion ratio in dB, mean over the batch
    (Le Roux et al., SDR - half-baked or well done?, 2019).

    zero_mean: remove the mean of both signals first (the metric then usually called SI-SNR).

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
    """Negative signal-to-noise ratio in dB, mean over the batch; it minds the level
    (Westhausen and Meyer, Dual-signal transformation LSTM network, 2020).

    Noise of a power below -70 dB of full scale counts as that, as published, and so does a silent target,
    for which the published loss was infinite: this one still asks for silence.
    """

    floor = 1e-7  # mean square

    def forward(self, estimate: Signals, target: Signals) -> Tensor:
        y, s = estimate.wave, target.wave  # (B, N)
        signal, noise = s.square().mean(dim=1), (y - s).square().mean(dim=1)
        return -10 * torch.log10((signal + self.floor) / (noise + self.floor)).mean()


class OutputSNR(Term):
    """Negative `output_snr`, mean over the batch: of a model that shall give what another gives."""

    def forward(self, estimate: Signals, target: Signals) -> Tensor:
        return -output_snr(estimate.wave, target.wave).mean()


def output_snr(estimate: Tensor, target: Tensor) -> Tensor:
    """SNR in dB of each signal (B, N) to its target, whatever their level: (B,), at most 50, 0 of two silent ones."""
    signal, noise = _energy(target), _energy(estimate - target)
    return 10 * torch.log10((signal + _SILENCE) / (noise + 1e-5 * signal + _SILENCE))


def _energy(wave: Tensor) -> Tensor:
    """(B, N) -> (B,)"""
    return wave.square().sum(dim=1)
