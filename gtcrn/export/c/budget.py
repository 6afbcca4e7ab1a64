"""A C file is held to limits of flash and RAM, and one that takes more is refused with its largest parts."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gtcrn.errors import UserError
from gtcrn.runtime.bare_metal.emulation import measured, state_parts
from gtcrn.runtime.c_code import read_source

_HOPS = 4  # by which the stack is measured
_LARGEST = 4  # parts that are named


class Budget(NamedTuple):
    """The KiB that a file may take on a core, None for any. flash: without the C library. ram: state and stack."""

    core: str
    flash: float | None
    ram: float | None

    def require(self, path: Path, wave: np.ndarray) -> str:
        """Return in words what the file of a folder takes. wave: (N,) samples, of which the first hops are run.

        Raises UserError if it takes more than the limits, or can't be compiled or run for the core.
        """
        source = read_source(path)
        with tempfile.TemporaryDirectory() as folder:
            counts, size = measured(source, self.core, wave[: _HOPS * source.signal.hop_length], Path(folder))
        parts = {**state_parts(source), "stack": counts.ram - counts.state}
        over = _over("flash_kib", self.flash, size.flash, size.parts)
        over += _over("ram_kib", self.ram, counts.ram, parts)
        if over:
            raise UserError(f"nothing was written: {'; '.join(over)}; on {self.core}, with -O2")
        return f"{size.flash / 1024:.1f} KiB of flash, {counts.ram / 1024:.1f} KiB of RAM on {self.core}, with -O2"


def _over(key: str, limit: float | None, taken: int, parts: Mapping[str, int]) -> list[str]:
    """Return in words that more is taken than the limit, and by which parts most, or nothing."""
    if limit is None or taken <= 1024 * limit:
        return []
    largest = sorted(parts.items(), key=lambda part: -part[1])[:_LARGEST]
    named = ", ".join(f"{name} {size / 1024:.1f}" for name, size in largest)
    return [f"{key}={limit:g}: it takes {taken / 1024:.1f} KiB, most of it by {named}"]
