"""How a kernel is compiled."""

from __future__ import annotations

from collections.abc import Callable

import numba


def kernel(function: Callable) -> Callable:
    """Compile a function when it is first called, and keep the result on disk if there is a folder to write to."""
    # sums of many numbers, which "reassoc" lets vectorise, are in double precision everywhere
    options = {"nogil": True, "error_model": "numpy", "fastmath": {"contract", "reassoc"}}
    try:
        return numba.njit(function, cache=True, **options)
    except RuntimeError:  # neither beside this file nor in the user's cache folder
        return numba.njit(function, **options)
