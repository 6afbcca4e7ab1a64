"""A tensor of codes, as C has it."""

from __future__ import annotations

from math import prod
from typing import NamedTuple


class QuantizedTensor(NamedTuple):
    """A tensor whose numbers are scale · (code - zero). bits: of a code, 8 or 16; of 16, zero is 0."""

    name: str
    shape: tuple[int, ...]
    bits: int
    scale: float
    zero: int

    @property
    def size(self) -> int:
        """Number of codes."""
        return prod(self.shape)

    @property
    def bytes(self) -> int:
        return self.bits // 8 * self.size
