"""Steps of training timed side by side: a model's plain form, and ours with PyTorch's operators and with kernels.

In every round each form of a model takes a step, in an order that changes from round to round, so that a machine that
is busy for a while slows all of them. Two clocks are read: processor time, summed over threads, which other programs do
not lengthen, and wall-clock time, which a user waits for. Ratios are medians over rounds of processor times in the same
round.
"""

from __future__ import annotations

import multiprocessing
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from math import nan
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction
from torch.optim import Optimizer
from tqdm import tqdm

from gtcrn import kernels
from gtcrn.losses import Loss, Signals
from gtcrn.models.enhancer import Enhancer
from gtcrn.profiling import plain
from gtcrn.profiling.cost import time_per_hop
from gtcrn.workers import begin

PLAIN = "plain"  # the other forms are the kernels of a model of ours
PARTS = ("forward", "loss", "backward", "optimizer")
FILE_SECONDS = 60

MakeOptimizer = Callable[..., Optimizer]


@dataclass(frozen=True)
class Setting:
    """The circumstances of a step.

    model: its name. width: times the channels of its usual size. threads: of the CPU. batch: crops. seconds: of a crop.
    """

    model: str
    width: float
    threads: int
    batch: int
    seconds: float


class Profile(NamedTuple):
    """The measured times in s.

    steps: a row for each form in each setting. files: a row for each form of each model.

    Both have medians of the processor's and the wall's clock with their extremes, and the ratio to the plain form, nan
    where there is none. Parts of a step are processor times.
    """

    steps: pd.DataFrame
    files: pd.DataFrame


def measure(
    settings: Mapping[Setting, Callable[[], Enhancer]],
    forms: Sequence[str],
    loss: Loss,
    optimizer: MakeOptimizer,
    rounds: int,
) -> Profile:
    """Time steps of all forms in all settings for so many rounds, after one that is left out, and return the times.

    settings: with functions that build their models, since one with weight norm can't be sent to another process.
    In the first setting of a model, whole files are timed too, and the memory of a step is taken in a fresh process.
    """
    threads = torch.get_num_threads()
    measured: set[str] = set()
    steps, files = [], []
    work = len(settings) + len({setting.model for setting in settings})
    with tqdm(total=work * (1 + rounds), desc="timing", unit="round", disable=None) as bar:
        for setting, make in settings.items():
            bar.set_postfix_str(" ".join(map(str, asdict(setting).values())))
            torch.set_num_threads(setting.threads)
            models = {form: model for form in forms if (model := _formed(make(), form))}
            calls = {form: Step(model, form, setting, loss, optimizer) for form, model in models.items()}
            times = _in_turns(list(calls.values()), rounds, bar)
            for row, step, parts in zip(_rows(list(calls), times), calls.values(), np.median(times, axis=0)[:, 0]):
                row |= {"real_time": setting.batch * setting.seconds / row["cpu"], **dict(zip(PARTS, parts))}
                row |= {"kernels": step.kernels(), "operators": step.operators.total(), "memory_bytes": nan}
                if setting.model not in measured:
                    row["memory_bytes"] = _in_fresh_process(_peak, make, step.form, setting, loss, optimizer)
                steps.append(asdict(setting) | row)
            if setting.model not in measured:
                measured.add(setting.model)
                files += [{"model": setting.model} | row for row in _whole_files(models, rounds, bar)]
    torch.set_num_threads(threads)
    return Profile(pd.DataFrame(steps), pd.DataFrame(files))


def _formed(enhancer: Enhancer, form: str) -> Enhancer | None:
    return plain.of(enhancer) if form == PLAIN else enhancer


def _use(form: str) -> kernels.use:
    return kernels.use("torch" if form == PLAIN else form)


def _noise(batch: int, samples: int) -> Tensor:
    return 0.1 * torch.randn(batch, samples, generator=torch.Generator().manual_seed(batch))


def _now() -> tuple[float, float]:
    return time.process_time(), time.perf_counter()


class Step:
    """A step of training on noise, which returns the times (2, parts) by both clocks in seconds.

    operators: those of which the graph of gradients consisted, by name, after the first step.
    """

    def __init__(self, model: Enhancer, form: str, setting: Setting, loss: Loss, optimizer: MakeOptimizer):
        self.model, self.form, self.loss = model.train(), form, loss
        self.optimizer = optimizer([weight for weight in model.parameters() if weight.requires_grad])
        waves = _noise(2 * setting.batch, round(setting.seconds * model.sample_rate))
        self.noisy, self.clean = waves.chunk(2)
        self.operators: Counter[str] = Counter()

    def __call__(self) -> np.ndarray:
        marks = [_now()]
        with _use(self.form):
            estimate = Signals(*self.model.estimate(self.noisy), self.model.spectra)
            marks.append(_now())
            total, _ = self.loss(estimate, Signals(self.clean, self.model.spectra(self.clean)))
            marks.append(_now())
            self.optimizer.zero_grad()
            total.backward()
            marks.append(_now())
            self.optimizer.step()
            marks.append(_now())
        self.operators = self.operators or operators(total)
        return np.diff(marks, axis=0).T

    def kernels(self) -> str:
        """Return the kernels that ran, with their numbers."""
        ran = {name: count for name, count in self.operators.items() if name.endswith(_KERNEL)}
        return ", ".join(f"{name.removesuffix(_KERNEL)} × {count}" for name, count in sorted(ran.items())) or "none"


_KERNEL = " (kernel)"


def operators(total: Tensor) -> Counter[str]:
    """Count the operators in the graph of gradients behind a tensor by name, those written in Python as kernels."""
    waiting, seen = [total.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting += [before for before, _ in node.next_functions]
    return Counter(_name(node) for node in seen)


def _name(node: torch.autograd.graph.Node) -> str:
    if isinstance(node, BackwardCFunction):
        return node.name().removeprefix("_").removesuffix("Backward") + _KERNEL
    return node.name()


def _in_turns(calls: Sequence[Callable[[], np.ndarray]], rounds: int, bar: tqdm) -> np.ndarray:
    """Return the times (rounds, calls, 2, parts) of calls that take turns."""
    order = np.random.default_rng(0)
    times = []
    for _ in range(1 + rounds):  # the first one compiles and fills caches
        taken = {index: calls[index]() for index in order.permutation(len(calls))}
        times.append([taken[index] for index in range(len(calls))])
        bar.update()
    return np.array(times[1:])


def _rows(forms: Sequence[str], times: np.ndarray) -> list[dict]:
    """Return the medians and extremes of each form's times (rounds, forms, 2, parts), all parts together."""
    clocks = times.sum(axis=3)
    rows = []
    for form, (cpu, wall) in zip(forms, clocks.transpose(1, 2, 0)):
        ratios = clocks[:, forms.index(PLAIN), 0] / cpu if PLAIN in forms else np.array([nan])
        row: dict = {"form": form}
        for name, values in {"cpu": cpu, "wall": wall, "ratio": ratios}.items():
            row |= {name: np.median(values), f"{name}_min": values.min(), f"{name}_max": values.max()}
        rows.append(row)
    return rows


def _whole_files(models: Mapping[str, Enhancer], rounds: int, bar: tqdm) -> list[dict]:
    """Return the times of enhancing a whole file by each form on one thread, and of a hop of a stream in ms."""
    torch.set_num_threads(1)
    rows = _rows(list(models), _in_turns([_enhancing(model, form) for form, model in models.items()], rounds, bar))
    for row, (form, model) in zip(rows, models.items()):
        row |= {"real_time": FILE_SECONDS / row["cpu"], "hop_ms": nan}
        if form != PLAIN and not model.total_lookahead():
            with _use(form):
                row["hop_ms"] = time_per_hop(model)
    return rows


def _enhancing(model: Enhancer, form: str) -> Callable[[], np.ndarray]:
    model.eval()
    wave = _noise(1, FILE_SECONDS * model.sample_rate)

    def enhance() -> np.ndarray:
        with _use(form), torch.inference_mode():
            marks = [_now()]
            model(wave)
            marks.append(_now())
        return np.diff(marks, axis=0).T

    return enhance


def _in_fresh_process(function: Callable[..., float], *arguments) -> float:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), begin) as process:
        return process.submit(function, *arguments).result()


def _peak(make: Callable[[], Enhancer], form: str, setting: Setting, loss: Loss, optimizer: MakeOptimizer) -> float:
    """Return the bytes by which this process grows at most in two steps, after a small one that loads all code."""
    torch.set_num_threads(setting.threads)
    model = _formed(make(), form)
    Step(model, form, replace(setting, batch=1), loss, optimizer)()
    before = _own_memory("VmRSS")
    step = Step(model, form, setting, loss, optimizer)
    step(), step()
    return _own_memory("VmHWM") - before


def _own_memory(key: str) -> float:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:  # only Linux tells
        return nan
    return 1024.0 * int(next(line.split()[1] for line in lines if line.startswith(f"{key}:")))
