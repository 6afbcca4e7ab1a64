"""Measure how the memory of a long training run grows, in its main process and in all its processes together."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil
from scipy import stats
from tqdm import tqdm

EVERY = 5.0  # s between two samples
WARM_UP = 0.2  # share of the run that is left out, in which caches fill and the pools of workers start
BLOCKS = 8  # neighbouring samples are alike, so the mean of each of these counts as one observation
MIB = 2**20
RUN = Path(__file__).parents[1] / "run.py"
OVERRIDES = (
    "model=light_v3",
    "data=demo",
    "data.num_workers=2",
    "data.train_files=64",
    "data.validation_files=2",
    "data.test_files=2",
    "trainer=cpu",
    "trainer.max_epochs=1000000",
    "logger=csv",
)


class Slope(NamedTuple):
    """A growth of memory in MiB per hour, and half the width of its 95 % confidence interval."""

    growth: float
    error: float

    def __str__(self) -> str:
        return f"{self.growth:+.1f} ± {self.error:.1f} MiB/h"


class Growth(NamedTuple):
    """The memory of a training run.

    slopes: of the main process and of all processes, by name. highest: most MiB of all processes together. steps: of
    training. code: the exit code.
    """

    slopes: dict[str, Slope]
    highest: float
    steps: int
    code: int


def measure(minutes: float, folder: Path, seed: int = 1) -> Growth:
    """Train for so long in a folder, write the samples to its `memory.csv`, and return how memory grew."""
    end = f"{int(minutes // 60):02d}:{int(minutes % 60):02d}:{round(minutes * 60) % 60:02d}"
    command = [
        sys.executable, RUN, *OVERRIDES, f'trainer.max_time="00:{end}"', f"run_dir={folder}", f"seed={seed}"
    ]  # fmt: skip
    folder.mkdir(parents=True)
    with open(folder / "output.txt", "wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, stdin=subprocess.DEVNULL)
        try:
            samples = np.array(list(_samples(process, minutes)))
        finally:
            process.kill()
    hours, main, everything = samples.T
    np.savetxt(folder / "memory.csv", samples, delimiter=",", header="hours,main_mib,all_mib", comments="")
    slopes = {"main process": slope(hours, main), "all processes": slope(hours, everything)}
    steps = max(map(int, re.findall(r"step (\d+):", (folder / "output.txt").read_text())), default=0)
    return Growth(slopes, float(everything.max()), steps, process.wait())


def _samples(process: subprocess.Popen, minutes: float) -> Iterator[tuple[float, float, float]]:
    """Yield (hours, MiB of the main process, MiB of all processes) until the training's time is over."""
    begun, tree = time.monotonic(), psutil.Process(process.pid)
    with tqdm(total=minutes, desc="training", unit="min", bar_format="{l_bar}{bar}| {n:.1f}/{total:g} min") as bar:
        while process.poll() is None:
            passed = time.monotonic() - begun
            if passed < 60 * minutes:  # afterwards it is tested, which takes other memory
                with suppress(psutil.NoSuchProcess):
                    # pss divides shared pages among the processes, so that the sum is the memory really in use
                    children = sum(child.memory_full_info().pss for child in tree.children(recursive=True))
                    own = tree.memory_full_info()
                    yield passed / 3600, own.rss / MIB, (own.pss + children) / MIB
                    bar.update(passed / 60 - bar.n)
            time.sleep(EVERY)


def slope(hours: np.ndarray, mib: np.ndarray) -> Slope:
    """Fit a straight line to the means of blocks after the warm-up, and return its slope with Student's t interval."""
    first = round(WARM_UP * len(hours))
    times, values = ([block.mean() for block in np.array_split(column[first:], BLOCKS)] for column in (hours, mib))
    line = stats.linregress(times, values)
    return Slope(float(line.slope), float(stats.t.ppf(0.975, BLOCKS - 2) * line.stderr))
