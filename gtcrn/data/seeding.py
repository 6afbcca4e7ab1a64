"""Random numbers that depend on what they are for and on nothing else."""

import zlib

import numpy as np


def generator(purpose: str, *numbers: int) -> np.random.Generator:
    """A generator that is a pure function of its arguments, e.g. `generator("crop", seed, epoch, index)`.

    The purpose is part of the seed so that two uses of the same numbers are independent, and so is how many
    numbers there are: numpy itself takes [1, 2] and [1, 2, 0] for the same seed.
    """
    return np.random.default_rng([zlib.crc32(purpose.encode()), len(numbers), *numbers])


def share_of(name: str) -> float:
    """A number in [0, 1) that depends on the name only, to hold out e.g. the speakers below 0.05."""
    return zlib.crc32(name.encode()) / 2**32
