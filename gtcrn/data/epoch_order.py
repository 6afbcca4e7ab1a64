"""The epoch order: which file of which of several corpora the n-th item of an epoch is."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from gtcrn.data.seeding import generator


class EpochOrder:
    """The order in which the files of several corpora are used, epoch after epoch.

    Every corpus gives its count of items in every epoch and goes through all its files before any is repeated.

    sizes: files of each corpus. counts: items of each in an epoch, be they more or fewer than it has files.
    """

    def __init__(self, sizes: Sequence[int], counts: Sequence[int], seed: int):
        self.sizes, self.counts, self.seed = list(sizes), list(counts), seed
        self._ends = np.cumsum(self.counts)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __call__(self, epoch: int, index: int) -> tuple[int, int, int]:
        """Return (corpus, how many times all its files have been given before, file): numbers that count from 0.

        The result is a pure function of the arguments.
        """
        corpus = int(np.searchsorted(self._ends, index, "right"))
        count, size = self.counts[corpus], self.sizes[corpus]
        passes, position = divmod(epoch * count + index - int(self._ends[corpus]) + count, size)
        return corpus, passes, int(_permutation(self.seed, corpus, passes, size)[position])


@lru_cache(maxsize=16)
def _permutation(seed: int, corpus: int, passes: int, size: int) -> np.ndarray:
    # "turns" is part of the seed: another word would give every training another order than the published ones had
    return generator("turns", seed, corpus, passes).permutation(size).astype(np.int32)


def apportion(items: int, weights: Sequence[float]) -> list[int]:
    """Divide a number of items by weights, so that the parts add up to it."""
    ends = np.round(np.cumsum(weights) / np.sum(weights) * items).astype(int)
    return np.diff(ends, prepend=0).tolist()
