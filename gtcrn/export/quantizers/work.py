"""What an exported file computes, and in which numbers its runtime does so."""

from __future__ import annotations

from typing import NamedTuple


class Work(NamedTuple):
    """Of one hop: integers, floats: multiplications of convolutions, products and recurrent layers, by integers with
    integers and all others. left: operators of those in float, by kind, and why. operators: how many of each kind, as
    the runtime runs them; of those in both kinds of numbers the floats' name says so: "CONV_2D, float".
    """

    integers: int
    floats: int
    left: dict[str, str]
    operators: dict[str, int]

    @property
    def share(self) -> float:
        """Of integers, 0 to 1; 0 if nothing is multiplied."""
        return self.integers / max(self.integers + self.floats, 1)
