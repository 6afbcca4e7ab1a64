"""Small functions on spectra in real and imaginary parts, (B, 2, T, F)."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def rfft(frames: Tensor) -> Tensor:
    """Return the spectrum (B, 2, T, N // 2 + 1) of every frame of (B, 1, T, N)."""
    return torch.view_as_real(torch.fft.rfft(frames[:, 0])).movedim(-1, 1)


def irfft(spec: Tensor) -> Tensor:
    """Return the frames (B, 1, T, N) of spectra (B, 2, T, N // 2 + 1): the inverse of `rfft` for even N."""
    return torch.fft.irfft(torch.complex(*spec.unbind(1)))[:, None]


def power(spec: Tensor, eps: float = 1e-12) -> Tensor:
    """Return the power |S|² + eps, (B, T, F), of spectra (B, 2, T, F)."""
    real, imaginary = spec.unbind(1)
    return real.square() + imaginary.square() + eps


def magnitude(spec: Tensor, eps: float = 1e-12) -> Tensor:
    """Return the magnitude (B, T, F) of spectra (B, 2, T, F); `eps` in the root keeps gradients finite in silence."""
    return torch.sqrt(power(spec, eps))


def magnitude_and_parts(spec: Tensor) -> Tensor:
    """Return magnitude, real part and imaginary part (B, 3, T, F) of spectra (B, 2, T, F), which GTCRN takes."""
    return torch.cat([magnitude(spec)[:, None], spec], dim=1)


def log_magnitude(spec: Tensor) -> Tensor:
    """Return log10 |S|, (B, 1, T, F), of spectra (B, 2, T, F), with |S| of at least 1e-12, as UL-UNAS takes it."""
    return spec.square().sum(dim=1, keepdim=True).clamp(min=1e-24).log() * (0.5 / math.log(10))


def apply_complex_mask(mask: Tensor, spec: Tensor) -> Tensor:
    """Return the complex product mask · spec; all are (B, 2, T, F)."""
    (a, b), (c, d) = mask.unbind(1), spec.unbind(1)
    return torch.stack([a * c - b * d, a * d + b * c], dim=1)
