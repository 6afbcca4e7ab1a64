"""Terms on spectra equal values computed by hand and with NumPy."""

import numpy as np
import pytest
import torch
from fixtures.signals import spectrum, speech_like

from gtcrn.errors import UserError
from gtcrn.losses import CompressedComplex, CompressedMagnitude, Consistency, MultiResolutionSTFT, Signals


def test_spectral_terms_prefer_the_models_own_spectrum():
    wave, other = speech_like(0).double(), speech_like(1).double()
    term = CompressedMagnitude(weight=1, compression=0.3)
    from_wave = term(Signals(wave), Signals(other))
    from_spec = term(Signals(wave, spectrum(wave)), Signals(other, spectrum(other)))
    torch.testing.assert_close(from_wave, from_spec)
    assert term(Signals(wave, spectrum(other)), Signals(other, spectrum(other))) == 0


def test_complex_term_is_the_squared_distance_of_compressed_spectra():
    a, b = spectrum(speech_like(0).double()), spectrum(speech_like(1).double())
    term = CompressedComplex(weight=1, compression=0.5)

    def compressed(spec):
        number = torch.complex(spec[:, 0], spec[:, 1])
        return torch.polar(number.abs().sqrt(), number.angle())

    expected = (compressed(a) - compressed(b)).abs().square().mean()
    wave = torch.zeros(2, 8000)
    torch.testing.assert_close(term(Signals(wave, a), Signals(wave, b)), expected, rtol=1e-4, atol=0)


def test_consistency_is_the_distance_from_the_spectrum_of_the_wave():
    wave, other = speech_like(0).double(), speech_like(1).double()
    consistency, distance = (kind(weight=1, compression=0.3) for kind in (Consistency, CompressedComplex))
    target = Signals(torch.zeros_like(wave))
    assert consistency(Signals(wave, spectrum(wave), spectrum), target) == 0 == consistency(Signals(wave), target)
    apart = consistency(Signals(wave, spectrum(other), spectrum), target)
    torch.testing.assert_close(apart, distance(Signals(wave, spectrum(other)), Signals(wave, spectrum(wave))))
    assert apart > 0
    with pytest.raises(UserError, match="a consistency term needs the model's analysis"):
        consistency(Signals(wave, spectrum(other)), target)


def test_multires_of_a_scaled_signal():
    """For |S| = g |T| the spectral convergence is |1 - g| and the log distance |ln g|, above the floor."""
    target = torch.randn(1, 16000, generator=torch.Generator().manual_seed(0)).double()
    term = MultiResolutionSTFT(weight=1, resolutions=[[512, 128, 512], [256, 64, 200]])
    value = term(Signals(2 * target), Signals(target)).item()
    assert value == pytest.approx(1 + np.log(2), rel=1e-3)


def test_emphasis_of_high_frequencies_by_numpy():
    """The published factors are a sigmoid around the cutoff's bin, as wide as a quarter of the bins above it."""
    target, estimate = (speech_like(seed).double() for seed in (0, 1))
    options = {"hf_weight": 1.5, "hf_cutoff": 3000, "sample_rate": 16000}
    term = MultiResolutionSTFT(weight=1, resolutions=[[512, 128, 512]], **options)
    value = term(Signals(estimate), Signals(target)).item()

    def magnitudes(wave):
        padded = np.pad(wave.numpy(), ((0, 0), (256, 256)))
        frames = np.lib.stride_tricks.sliding_window_view(padded, 512, axis=1)[:, ::128]
        window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(512) / 512)
        return np.sqrt(np.abs(np.fft.rfft(frames * window)) ** 2 + 1e-7)

    y, s = magnitudes(estimate), magnitudes(target)
    cutoff, bins = 96, np.arange(257)  # 3000 / 16000 · 512
    weight = 1 + 0.5 / (1 + np.exp(-(bins - cutoff) / 40))  # (257 - 96) // 4
    convergence = np.linalg.norm(weight * (s - y)) / np.linalg.norm(weight * s)
    assert value == pytest.approx(convergence + np.abs(np.log(weight * s) - np.log(weight * y)).mean(), rel=1e-6)


def test_emphasis_makes_high_frequencies_dear_and_none_is_none():
    time = torch.arange(8000) / 16000
    low, high = (0.1 * torch.sin(2 * np.pi * hz * time)[None] for hz in (500, 6000))
    resolutions = [[512, 128, 512], [1024, 256, 1024]]
    plain = MultiResolutionSTFT(1, resolutions)
    emphasised = MultiResolutionSTFT(1, resolutions, hf_weight=3, hf_cutoff=3000, sample_rate=16000)
    ones = MultiResolutionSTFT(1, resolutions, hf_weight=1, hf_cutoff=3000, sample_rate=16000)

    def price(term, tone):
        target = low + high
        return term(Signals(target - 0.5 * tone), Signals(target)).item()

    dearer_high, dearer_low = (price(emphasised, tone) / price(plain, tone) for tone in (high, low))
    assert dearer_high > 1.05 > 1 > dearer_low
    assert price(ones, high) == price(plain, high)
