"""Pairs of files as tensors."""

import numpy as np
import torch
from torch.utils.data import Dataset

from gtcrn.data import audio
from gtcrn.data.pairs import Pair
from gtcrn.data.seeding import generator


class PairedDataset(Dataset):
    """Items are `dict(noisy=(N,), clean=(N,), name, snr, index)`; waves float32 at `sample_rate`, snr in dB.

    segment: N, the length of the crops in samples; None for whole files. Where a crop lies is a pure function
        of (seed, epoch, index), so it does not depend on workers, devices or what came before. Levels stay as
        they are.
    short: what is done with a file shorter than the crop: `pad` with zeros at its end, or `wrap` around.
    """

    def __init__(
        self,
        pairs: list[Pair],
        sample_rate: int,
        segment: int | None = None,
        seed: int = 0,
        short: str = "pad",
    ):
        self.pairs, self.sample_rate = pairs, sample_rate
        self.segment, self.seed, self.short = segment, seed, short

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, key: tuple[int, int] | int) -> dict:
        """key: `(epoch, index)`, or just the index where the epoch does not matter (whole files)."""
        epoch, index = key if isinstance(key, tuple) else (0, key)
        pair = self.pairs[index]
        start, frames = 0, -1
        if self.segment is not None:
            frames = self.segment
            spare = audio.resampled_length(pair.frames, pair.rate, self.sample_rate) - frames
            if spare > 0:
                start = int(generator("crop", self.seed, epoch, index).integers(spare + 1))
        noisy, clean = (
            torch.from_numpy(self._fit(audio.load(path, self.sample_rate, start, frames)))
            for path in (pair.noisy, pair.clean)
        )
        return {"noisy": noisy, "clean": clean, "name": pair.name, "snr": pair.snr, "index": index}

    def _fit(self, wave: np.ndarray) -> np.ndarray:
        if self.segment is None or len(wave) == self.segment:
            return wave
        if self.short == "wrap":
            return np.resize(wave, self.segment)
        return np.pad(wave, (0, self.segment - len(wave)))
