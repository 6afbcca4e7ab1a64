"""Whose turn it is: which row of which of several corpora the n-th item of an epoch is."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from gtcrn.data.seeding import generator


class Turns:
    """Every corpus gives its count of items in every epoch and goes through all its rows before any comes again.

    sizes: rows of each corpus. counts: items of each in an epoch, be they more or fewer than it has rows.
    """

    def __init__(self, sizes: Sequence[int], counts: Sequence[int], seed: int):
        self.sizes, self.counts, self.seed = list(sizes), list(counts), seed
        self._ends = np.cumsum(self.counts)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __call__(self, epoch: int, index: int) -> tuple[int, int, int]:
        """(corpus, how many times all its rows have been given before, row): a pure function of the arguments."""
        corpus = int(np.searchsorted(self._ends, index, "right"))
        count, size = self.counts[corpus], self.sizes[corpus]
        passes, place = divmod(epoch * count + index - int(self._ends[corpus]) + count, size)
        return corpus, passes, int(_order(self.seed, corpus, passes, size)[place])


@lru_cache(maxsize=16)
def _order(seed: int, corpus: int, passes: int, size: int) -> np.ndarray:
    return generator("turns", seed, corpus, passes).permutation(size).astype(np.int32)


def counts_of(items: int, weights: Sequence[float]) -> list[int]:
    """`items` divided by weights, to the item."""
    ends = np.round(np.cumsum(weights) / np.sum(weights) * items).astype(int)
    return np.diff(ends, prepend=0).tolist()
