"""The values of a file's tensors while it streams recordings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from gtcrn.export.quantizers import frames
from gtcrn.export.quantizers.litert.tables import FLOAT, File
from gtcrn.runtime.denoiser import LiteRTStep, memory
from gtcrn.runtime.framing import Step


class Seen(NamedTuple):
    """The values of a tensor: the ends of their range, in which zero is, and their mean square."""

    low: float
    high: float
    power: float


def look(path: Path, file: File, waves: Sequence[np.ndarray]) -> dict[int, Seen]:
    """Return what every float tensor has had for values while the file streamed the waves."""
    numbers = [i for i, tensor in enumerate(file.tensors) if tensor.type == FLOAT and file.constant(i) is None]
    step, views = opened(path, numbers)
    sizes = [view.size for view in views]
    hops = sum(len(wave) // file.signal.hop_length for wave in waves)
    low, high, power = np.zeros((3, sum(sizes)))
    for _ in streamed(step, file, waves):
        now = flat(views)
        np.minimum(low, now, out=low)
        np.maximum(high, now, out=high)
        power += now * now
    begins = np.cumsum([0, *sizes[:-1]])
    low, high, power = (
        part.reduceat(x, begins) for part, x in ((np.minimum, low), (np.maximum, high), (np.add, power))
    )
    return dict(zip(numbers, map(Seen, low.tolist(), high.tolist(), (power / sizes / hops).tolist())))


def opened(path: Path, numbers: Sequence[int]) -> tuple[Step, list[np.ndarray]]:
    """Open a file in LiteRT's own kernels, with views of tensors, which every hop overwrites."""
    interpreter = Interpreter(
        str(path),
        num_threads=1,
        experimental_preserve_all_tensors=True,
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    interpreter.allocate_tensors()
    return LiteRTStep(interpreter, path), [memory(interpreter.tensor(i)()) for i in numbers]


def streamed(step: Step, file: File, waves: Sequence[np.ndarray]) -> Iterator[None]:
    """Stream each wave through the step, and yield after every hop."""
    for wave in waves:
        step.reset()
        for x in frames.inputs(wave, file.signal):
            step(x)
            yield


def flat(views: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([view.ravel() for view in views]).astype(np.float64)
