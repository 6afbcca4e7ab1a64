"""Signal processing with no learnt weights: STFT, ERB bands, spectral features and masks."""

from gtcrn.dsp.erb import ERB, ERBMatrix, erb_filterbank
from gtcrn.dsp.spectra import apply_complex_mask, magnitude, magnitude_and_parts
from gtcrn.dsp.stft import STFT

__all__ = [
    "ERB",
    "ERBMatrix",
    "STFT",
    "apply_complex_mask",
    "erb_filterbank",
    "magnitude",
    "magnitude_and_parts",
]
