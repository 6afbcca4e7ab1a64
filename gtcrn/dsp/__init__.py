"""Signal processing without learnt weights: STFT, ERB bands, spectral features and masks."""

from gtcrn.dsp.erb import ERB, ERBMatrix, erb_filterbank
from gtcrn.dsp.spectra import apply_complex_mask, irfft, magnitude, magnitude_and_parts, rfft
from gtcrn.dsp.stft import STFT, Frames

__all__ = [
    "ERB",
    "ERBMatrix",
    "Frames",
    "STFT",
    "apply_complex_mask",
    "erb_filterbank",
    "irfft",
    "magnitude",
    "magnitude_and_parts",
    "rfft",
]
