"""Random numbers that depend on what they are for and on nothing else."""

import zlib
from collections.abc import Sequence

import numpy as np
from pandas.util import hash_array


def generator(purpose: str, *numbers: int) -> np.random.Generator:
    """A generator that is a pure function of its arguments, e.g. `generator("crop", seed, epoch, index)`.

    The purpose is part of the seed so that two uses of the same numbers are independent, and so is how many
    numbers there are: numpy itself takes [1, 2] and [1, 2, 0] for the same seed.
    """
    return np.random.default_rng([zlib.crc32(purpose.encode()), len(numbers), *numbers])


def shares_of(names: Sequence[str]) -> np.ndarray:
    """Numbers in [0, 1) that depend on nothing but the names, to hold out e.g. the speakers below 0.05."""
    return hash_array(np.array(names, dtype=object), categorize=False) / 2**64
