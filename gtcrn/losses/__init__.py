"""Training losses: named, weighted terms that a YAML file puts together.

loss = Loss({"sisdr": SISDR(weight=0.1), "magnitude": CompressedMagnitude(weight=70, compression=0.3)})
total, parts = loss(Signals(estimate_wave, estimate_spec), Signals(target_wave, target_spec))
"""

from gtcrn.losses.loss import Loss, Signals, Term
from gtcrn.losses.perceptual import PESQ, STOI
from gtcrn.losses.spectral import CompressedComplex, CompressedMagnitude, Consistency, MultiResolutionSTFT
from gtcrn.losses.waveform import L1, SISDR, SNR, OutputSNR

__all__ = [
    "CompressedComplex",
    "CompressedMagnitude",
    "Consistency",
    "L1",
    "Loss",
    "MultiResolutionSTFT",
    "OutputSNR",
    "PESQ",
    "SISDR",
    "SNR",
    "STOI",
    "Signals",
    "Term",
]
