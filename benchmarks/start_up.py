"""Measure how long the command takes to answer, and to get through the first step of a training on the demo corpus."""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import pytorch_lightning as pl

RUN = Path(__file__).parents[1] / "run.py"
COMMANDS = {
    "--help": ["--help"],
    "--cfg job": ["--cfg", "job"],
    "first step": ["+callbacks.first_step._target_=start_up.FirstStep"],
    "first step, logger=csv": ["+callbacks.first_step._target_=start_up.FirstStep", "logger=csv"],
}


class FirstStep(pl.Callback):
    """A callback that ends the process after its first step."""

    def on_train_batch_end(self, *args) -> None:
        os._exit(0)


def seconds(arguments: list[str]) -> tuple[float, float]:
    """Return the CPU time and the wall time of a command in seconds."""
    path = os.pathsep.join(filter(None, (str(Path(__file__).parent), os.environ.get("PYTHONPATH"))))
    before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    with TemporaryDirectory() as folder:
        command = [sys.executable, RUN, *arguments]
        subprocess.run(command, cwd=folder, env=os.environ | {"PYTHONPATH": path}, capture_output=True, check=True)
    wall, after = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime, wall


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="of all commands; the first one fills caches")
    rounds = [{name: seconds(command) for name, command in COMMANDS.items()} for _ in range(parser.parse_args().rounds)]
    for name in COMMANDS:
        cpu, wall = map(min, zip(*(times[name] for times in rounds)))
        print(f"{name:24} {cpu:6.2f} s of CPU, {wall:6.2f} s in all, the least of {len(rounds)}")


if __name__ == "__main__":
    main()
