"""Random numbers that depend on their purpose and their seeds and on nothing else."""

import zlib
from collections.abc import Sequence

import numpy as np
from pandas.util import hash_array


def generator(purpose: str, *numbers: int) -> np.random.Generator:
    """Return a generator that is a pure function of its arguments, e.g. `generator("crop", seed, epoch, index)`.

    The purpose is part of the seed so that two uses of the same numbers are independent, and so is the count of
    numbers, since numpy itself takes [1, 2] and [1, 2, 0] for the same seed.
    """
    return np.random.default_rng([zlib.crc32(purpose.encode()), len(numbers), *numbers])


def shares_of(names: Sequence[str]) -> np.ndarray:
    """Return a number in [0, 1) for each name that depends on the name alone, e.g. to hold out those below 0.05."""
    return hash_array(np.array(names, dtype=object), categorize=False) / 2**64
