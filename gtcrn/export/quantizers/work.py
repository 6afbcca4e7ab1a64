"""The work of an exported file, and in which numbers its runtime does it."""

from __future__ import annotations

from typing import NamedTuple


class Work(NamedTuple):
    """The work of one hop.

    integers, floats: multiplications of convolutions, products and recurrent layers, by integers with integers, and
    all others. left: the kinds of operators that multiply in float, and why. operators: how many of each kind, as the
    runtime runs them; those in float are named so: "CONV_2D, float".
    """

    integers: int
    floats: int
    left: dict[str, str]
    operators: dict[str, int]

    @property
    def share(self) -> float:
        """Share of the multiplications that are in integers, 0 to 1; 0 if nothing is multiplied."""
        return self.integers / max(self.integers + self.floats, 1)
