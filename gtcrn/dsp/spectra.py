"""Small functions on spectra in real and imaginary parts, (B, 2, T, F)."""

from __future__ import annotations

import torch
from torch import Tensor


def rfft(frames: Tensor) -> Tensor:
    """The spectrum of every frame: (B, 1, T, N) -> (B, 2, T, N // 2 + 1)."""
    return torch.view_as_real(torch.fft.rfft(frames[:, 0])).movedim(-1, 1)


def irfft(spec: Tensor) -> Tensor:
    """The inverse of `rfft` for even N: (B, 2, T, N // 2 + 1) -> (B, 1, T, N)."""
    return torch.fft.irfft(torch.complex(spec[:, 0], spec[:, 1]))[:, None]


def magnitude(spec: Tensor, eps: float = 1e-12) -> Tensor:
    """|S| of (B, 2, T, F) -> (B, T, F); `eps` inside the root keeps the gradient finite in silence."""
    return torch.sqrt(spec[:, 0].square() + spec[:, 1].square() + eps)


def magnitude_and_parts(spec: Tensor) -> Tensor:
    """(B, 2, T, F) -> (B, 3, T, F): magnitude, real part, imaginary part, the input of the GTCRN family."""
    return torch.cat([magnitude(spec)[:, None], spec], dim=1)


def apply_complex_mask(mask: Tensor, spec: Tensor) -> Tensor:
    """The complex product mask · spec, all (B, 2, T, F)."""
    real = mask[:, 0] * spec[:, 0] - mask[:, 1] * spec[:, 1]
    imaginary = mask[:, 0] * spec[:, 1] + mask[:, 1] * spec[:, 0]
    return torch.stack([real, imaginary], dim=1)
