"""Bands by equivalent rectangular bandwidth (ERB): low bins are kept, high bins are merged on a perceptual scale."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from gtcrn.errors import UserError


def erb_filterbank(n_fft: int, sample_rate: int, low_bins: int, bands: int) -> Tensor:
    """Return triangular filters (bands, n_fft // 2 + 1 - low_bins) equally spaced on the ERB-rate scale.

    Neighbouring triangles add up to one on every bin. The ERB rate is 21.4 · log10(1 + 0.00437 f)
    (Glasberg and Moore, 1990). Raises UserError if the bands are narrower than a bin.
    """
    highest = n_fft // 2
    edges = np.array([low_bins / n_fft, 0.5]) * sample_rate  # Hz
    lowest, highest_rate = 21.4 * np.log10(1 + 0.00437 * edges)
    erb_rates = np.linspace(lowest, highest_rate, bands)
    peaks = np.round((10 ** (erb_rates / 21.4) - 1) / 0.00437 / sample_rate * n_fft)
    if len(np.unique(peaks)) < bands:
        raise UserError(
            f"model.erb_bands={bands}: too many for bins {low_bins} to {highest} of n_fft={n_fft}; "
            "lower erb_bands or raise erb_low_bins or n_fft"
        )
    bins = np.arange(low_bins, highest + 1)
    filters = np.stack([np.interp(bins, peaks, one_hot) for one_hot in np.eye(bands)])
    return torch.from_numpy(filters.astype(np.float32))


class ERBMatrix(nn.Linear):
    """A fixed matrix product over frequency, which is not trained.

    Authors count it differently: GTCRN and GTCRN-Micro keep it as a frozen parameter (in the
    larger of their two published parameter counts, seen by thop), Light v3 as a buffer (in neither).
    `as_parameter` follows each of them, so that the published counts come out.
    """

    def __init__(self, matrix: Tensor, as_parameter: bool):
        out_features, in_features = matrix.shape
        super().__init__(in_features, out_features, bias=False, device="meta")
        if as_parameter:
            self.weight = nn.Parameter(matrix.clone(), requires_grad=False)
        else:
            del self.weight
            self.register_buffer("weight", matrix.clone())


class ERB(nn.Module):
    """The conversion between n_fft // 2 + 1 bins and `low_bins` bins with `bands` ERB bands, in both directions.

    Raises UserError if there are too few bins or bands.
    """

    def __init__(
        self, low_bins: int = 65, bands: int = 64, n_fft: int = 512, sample_rate: int = 16000, as_parameter: bool = True
    ):
        super().__init__()
        if not 1 <= low_bins <= n_fft // 2:
            raise UserError(f"model.erb_low_bins={low_bins}: must lie between 1 and n_fft / 2 = {n_fft // 2}")
        if bands < 2:
            raise UserError(f"model.erb_bands={bands}: at least 2 bands are needed")
        filters = erb_filterbank(n_fft, sample_rate, low_bins, bands)
        self.low_bins = low_bins
        self.n_bands = low_bins + bands
        self.erb_fc = ERBMatrix(filters, as_parameter)
        self.ierb_fc = ERBMatrix(filters.T, as_parameter)

    def analysis(self, x: Tensor) -> Tensor:
        """Merge bins (..., n_fft // 2 + 1) into bands (..., n_bands)."""
        return torch.cat([x[..., : self.low_bins], self.erb_fc(x[..., self.low_bins :])], dim=-1)

    def synthesis(self, x: Tensor) -> Tensor:
        """Spread bands (..., n_bands) over bins (..., n_fft // 2 + 1)."""
        return torch.cat([x[..., : self.low_bins], self.ierb_fc(x[..., self.low_bins :])], dim=-1)
