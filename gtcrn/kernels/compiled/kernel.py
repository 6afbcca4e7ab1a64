"""The decorator with which numba compiles a kernel."""

from __future__ import annotations

from collections.abc import Callable

import numba


def kernel(function: Callable) -> Callable:
    """Compile a function when it is first called, and keep the result on disk if there is a folder to write to."""
    # "reassoc" lets sums vectorise; those of more numbers than a block has are in double precision everywhere
    options = {"nogil": True, "error_model": "numpy", "fastmath": {"contract", "reassoc"}}
    try:
        return numba.njit(function, cache=True, **options)
    except RuntimeError:  # neither beside the function's file nor in the user's cache folder
        return numba.njit(function, **options)
