"""Kernels on several threads: they run without Python's lock, each thread on a part of its own."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Result = TypeVar("Result")


def shared(call: Callable[[int, int], Result], count: int, least: int = 1) -> list[Result]:
    """Call `call(first, last)` for consecutive parts of range(count) at once, on as many threads as torch has.

    Return what each call gave, in order. least: smallest size of a part, unless count is smaller.
    """
    parts = max(1, min(torch.get_num_threads(), count // least))
    bounds = [count * part // parts for part in range(parts + 1)]
    if parts == 1:
        return [call(*bounds)]
    others = [_threads(os.getpid()).submit(call, *pair) for pair in zip(bounds[1:-1], bounds[2:])]
    return [call(*bounds[:2]), *(other.result() for other in others)]


@functools.cache
def _threads(process: int) -> ThreadPoolExecutor:
    """Return the threads of a process: a forked one has none of those of its parent.

    They flush denormals, which a thread does for itself alone.
    """
    return ThreadPoolExecutor(initializer=torch.set_flush_denormal, initargs=(True,))
