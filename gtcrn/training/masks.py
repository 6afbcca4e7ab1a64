"""SpecAugment-style masks: bands of time and frequency that the model must do without."""

from __future__ import annotations

import torch
from torch import Tensor


class SpectrumMasks:
    """Masks that zero random bands of frames and of bins of the noisy spectrum (Park et al., Interspeech 2019).

    time_masks, freq_masks: number of masks. max_frames, max_bins: largest width. The masks are a pure function of
    (seed, step), so that a resumed run draws the same ones.
    """

    def __init__(
        self, time_masks: int = 1, max_frames: int = 10, freq_masks: int = 1, max_bins: int = 16, seed: int = 0
    ):
        self.time_masks, self.max_frames = time_masks, max_frames
        self.freq_masks, self.max_bins = freq_masks, max_bins
        self.seed = seed

    def __call__(self, spec: Tensor, step: int) -> Tensor:
        """Return (B, 2, T, F) with bands set to zero, drawn for every item by itself."""
        generator = torch.Generator().manual_seed(hash((self.seed, step)) % 2**63)
        frames = self._keep(spec.shape[0], spec.shape[2], self.time_masks, self.max_frames, generator)
        bins = self._keep(spec.shape[0], spec.shape[3], self.freq_masks, self.max_bins, generator)
        return spec * frames[:, None, :, None].to(spec) * bins[:, None, None, :].to(spec)

    @staticmethod
    def _keep(batch: int, length: int, masks: int, widest: int, generator: torch.Generator) -> Tensor:
        """Return (B, length) bool, False inside a band."""
        width = torch.rand(batch, masks, 1, generator=generator) * min(widest, length)
        begin = torch.rand(batch, masks, 1, generator=generator) * (length - width)
        position = torch.arange(length)
        return ((position < begin) | (position >= begin + width)).all(dim=1)
