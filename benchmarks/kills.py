"""Kill trainings, let `resume=auto` finish them, and compare them to the bit with undisturbed ones.

    python benchmarks/kills.py --kills 80 --output table.md

Every kind of training, with and without loader processes, with checkpoints every five minutes and before every step,
is run once undisturbed, and once more with kill -9 at a random moment, in the middle of a step, at the end of an
epoch, in a validation and within a save, and resumed each time. Weights, optimisers, schedules, averages and counters
in last.ckpt and best.ckpt, every row of metrics.csv, and summary.json must be equal. Measured times may differ.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import logging
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import Checkpoint
from tqdm import tqdm

import gtcrn.tasks
from gtcrn.models import light_v3, micro
from gtcrn.models.pretrained import CORE_PREFIX, RECORD
from gtcrn.tasks import train
from gtcrn.training.checkpoints import LAST, PREVIOUS

ROOT = Path(__file__).parents[1]
POINTS = ("random moment", "middle of a step", "end of an epoch", "validation", "save")
KINDS = {
    "supervised, EMA": ("training.ema_decay=0.9",),
    "adversarial": ("training=adversarial", "training/discriminator=small", "training.start_epoch=1"),
    "distillation": ("training=distillation", "training.teacher={folder}/teacher.ckpt"),
    "qat": (
        "training=qat", "model=micro", "model.channels=4", "model.stacks=1", "model.blocks=1",
        "init_from={folder}/micro.ckpt", "monitor=val/snr", "steps=23", "trainer.val_check_interval=3",
        "training.calibration_batches=2",
    ),
}  # fmt: skip
WORKERS = (0, 2)
SCHEDULES = {"default": 5, "short": 1e-6}  # checkpoint_minutes
EPOCHS, BATCHES = 5, 5
COMMON = (
    "logger=csv", "trainer.accelerator=cpu", "trainer.log_every_n_steps=1", "data=demo", "data.train_files=10",
    "data.validation_files=2", "data.test_files=1", "data.batch_size=2", "data.segment_seconds=0.3",
    "callbacks.clips.count=0", "metrics.validation=[si_sdr]", "metrics.test=[si_sdr]", "metrics.workers=1",
    "scheduler.warmup_steps=2",
    "data.cache_dir={folder}/cache", "resume=auto",
)  # fmt: skip
LIGHT_V3 = ("model=light_v3", "model.width_mult=0.5", "model.use_two_dpgrnn=false", "monitor=val/si_sdr",
            f"trainer.max_epochs={EPOCHS}")  # fmt: skip


@dataclass(frozen=True)
class Scenario:
    kind: str
    workers: int
    schedule: str

    def overrides(self, folder: Path) -> list[str]:
        own = KINDS[self.kind] if self.kind == "qat" else (*LIGHT_V3, *KINDS[self.kind])
        minutes = SCHEDULES[self.schedule]
        loading = (f"data.num_workers={self.workers}", f"checkpoint_minutes={minutes}")
        return [override.format(folder=folder) for override in (*COMMON, *own, *loading)]


TIMES = ("Pace", "data_wait", "seconds")  # keys of measured times, which may differ

SCENARIOS = [Scenario(*parts) for parts in itertools.product(KINDS, WORKERS, SCHEDULES)]


class Outcome(NamedTuple):
    scenario: Scenario
    killed: list[str]  # points at which it was killed
    differences: list[str]


class Killer(Checkpoint):
    """A callback that kills its own process at one point of one epoch, as if from outside.

    As a checkpoint callback it runs after other callbacks at that point, after best.ckpt and before last.ckpt.
    """

    def __init__(self, point: str, epoch: int, chance: random.Random):
        self.point, self.epoch = point, epoch
        self.batch = chance.randrange(1, BATCHES - 1)
        self.moment = chance.choice(["before", "between", "after"])
        self.seconds = chance.uniform(0, 0.5)
        self.due = False  # whether it is to kill in this epoch
        self.replace, os.replace = os.replace, self.replace_or_die

    def replace_or_die(self, source: Path, target: Path) -> None:
        """Replace os.replace, by which a save first keeps the former last.ckpt and then names the new one."""
        name = Path(target).name
        saving = name in (LAST, PREVIOUS)
        self._at("save", saving and (self.moment == "before" or self.moment == "between" and name == LAST))
        self.replace(source, target)
        self._at("save", name == LAST)

    def on_train_batch_start(self, trainer: pl.Trainer, *args) -> None:
        begins, self.due = not self.due, trainer.current_epoch == self.epoch
        if self.due and begins and self.point == "random moment":
            threading.Timer(self.seconds, os.kill, (os.getpid(), signal.SIGKILL)).start()

    def on_before_optimizer_step(self, trainer: pl.Trainer, *args) -> None:
        self._at("middle of a step", trainer.fit_loop.batch_idx == self.batch)

    def on_validation_batch_end(self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, index: int) -> None:
        self._at("validation", index == self.batch % 2)

    def on_train_epoch_end(self, *args) -> None:
        self._at("end of an epoch", self.moment == "before")

    def on_train_epoch_start(self, *args) -> None:
        self._at("end of an epoch", True)

    def on_train_end(self, *args) -> None:
        self._at("end of an epoch", True)

    def _at(self, point: str, now: bool) -> None:
        if self.due and now and point == self.point:
            os.kill(os.getpid(), signal.SIGKILL)


def live(cfg: DictConfig, run_dir: Path, log: Path, prepare: Callable[[], None] = lambda: None) -> int:
    """Train in a process of its own and return its exit code, or the code of its signal if it was killed.

    The process is forked, so that PyTorch is imported only once for all of them.
    """
    process = os.fork()
    if process:
        return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    code = 1
    try:
        with log.open("a") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        logging.basicConfig(level=logging.INFO, stream=sys.stdout)
        HydraConfig.instance().set_config(cfg)
        own = OmegaConf.masked_copy(cfg, [key for key in cfg if key != "hydra"])
        own.run_dir = str(run_dir)
        prepare()
        gtcrn.tasks.run(own)
        code = 0
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def with_killer(*when: Any) -> None:
    """Add a `Killer` to the callbacks of trainings in this process."""
    make, killer = train.make_callbacks, Killer(*when)
    train.make_callbacks = lambda *arguments: [*make(*arguments), killer]


def compose_all(scenarios: Sequence[Scenario], folder: Path) -> dict[Scenario, DictConfig]:
    """Return the configurations, which Hydra composes in one thread only."""
    configs = {}
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        for scenario in scenarios:
            own = [*scenario.overrides(folder), f"hydra.runtime.output_dir={folder}/new"]
            configs[scenario] = compose("config", own, return_hydra_config=True)
    return configs


def kill_and_resume(scenario: Scenario, cfg: DictConfig, folder: Path, kills: int, seed: int) -> Outcome:
    """Kill a training at several points, one after the other, and compare it with an undisturbed one."""
    place = folder / f"{scenario.kind.split(',')[0]}_{scenario.workers}_{scenario.schedule}"
    place.mkdir()
    log = place / "log.txt"
    if code := live(cfg, place / "whole", log):
        return Outcome(scenario, [], [f"the undisturbed run ended with code {code}: {_last_line(log)}"])
    chance = random.Random(f"{seed} {scenario}")
    killed = []
    for epoch, point in enumerate(chance.sample(POINTS, kills)):
        code = live(cfg, place / "killed", log, partial(with_killer, point, epoch, chance))
        if code == -signal.SIGKILL:
            killed.append(point)
        elif code:
            return Outcome(scenario, killed, [f"a life ended with code {code}: {_last_line(log)}"])
    if code := live(cfg, place / "killed", log):
        return Outcome(scenario, killed, [f"the last life ended with code {code}: {_last_line(log)}"])
    return Outcome(scenario, killed, list(differences(place / "whole", place / "killed")))


def _last_line(log: Path) -> str:
    return log.read_text().splitlines()[-1]


def differences(whole: Path, killed: Path) -> Iterator[str]:
    """Return where two runs differ to the bit."""
    contents = [dict(leaves(results(run), run)) for run in (whole, killed)]
    for place in sorted(contents[0].keys() | contents[1].keys()):
        ours, theirs = (content.get(place, "nothing") for content in contents)
        tensors = isinstance(ours, torch.Tensor) and isinstance(theirs, torch.Tensor)
        if not (torch.equal(ours, theirs) if tensors else ours == theirs):
            yield place


def results(run: Path) -> dict[str, Any]:
    checkpoints = {name: torch.load(run / "checkpoints" / name, weights_only=True) for name in (LAST, "best.ckpt")}
    with (run / "metrics.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if not row.get("train/data_wait")]
    return checkpoints | {"metrics.csv": rows, "summary.json": json.loads((run / "summary.json").read_text())}


def leaves(value: Any, run: Path, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every value in nested ones that must be equal between runs, with its path."""
    if isinstance(value, str):
        yield path, value.replace(str(run.resolve()), "RUN")
    elif isinstance(value, dict):
        for key, part in value.items():
            if key not in TIMES:
                yield from leaves(part, run, f"{path}/{str(key).replace(str(run.resolve()), 'RUN')}")
    elif isinstance(value, list | tuple):
        yield f"{path} (length)", len(value)
        for index, part in enumerate(value):
            yield from leaves(part, run, f"{path}/{index}")
    else:
        yield path, value


def table(outcomes: Sequence[Outcome]) -> str:
    """Return a table of the outcomes in Markdown, and below it where runs differ."""
    lines = [f"| training | loaders | checkpoints | {' | '.join(POINTS)} | differences |", "|---" * 9 + "|"]
    for outcome in outcomes:
        scenario = outcome.scenario
        counts = " | ".join(str(outcome.killed.count(point)) for point in POINTS)
        names = f"{scenario.kind} | {scenario.workers} | {scenario.schedule}"
        lines.append(f"| {names} | {counts} | {len(outcome.differences)} |")
    kills = sum(len(outcome.killed) for outcome in outcomes)
    wrong = [f"- {one.scenario}: {'; '.join(one.differences[:5])}" for one in outcomes if one.differences]
    lines.append(f"\n{kills} kills, {len(wrong)} of {len(outcomes)} trainings differ from undisturbed ones.")
    return "\n".join([*lines, *wrong])


def prepare(folder: Path) -> None:
    """Write the checkpoints that the trainings begin with or distil from."""
    for name, build, knobs in (
        ("micro", micro.build, {"channels": 4, "stacks": 1, "blocks": 1}),
        ("teacher", light_v3.build, {"width_mult": 0.5}),
    ):
        torch.manual_seed(0)
        weights = {f"{CORE_PREFIX}{key}": value for key, value in build(**knobs).core.state_dict().items()}
        record = {"build": f"{build.__module__}.build", "knobs": knobs}
        torch.save({"state_dict": weights, RECORD: {"model": record}}, folder / f"{name}.ckpt")


def outcomes(kills: int, seed: int = 1, scenarios: Sequence[Scenario] = SCENARIOS, at_once: int = 2) -> list[Outcome]:
    """Return the outcomes of so many kills, spread over the scenarios; each has at most one per point."""
    # processes without threads, of which one could hold a lock while they are forked
    fork = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(at_once, fork) as processes:
        prepare(Path(folder))
        share = min(-(-kills // len(scenarios)), len(POINTS))
        jobs = [
            processes.submit(kill_and_resume, scenario, cfg, Path(folder), share, seed)
            for scenario, cfg in compose_all(scenarios, Path(folder)).items()
        ]
        return [job.result() for job in tqdm(jobs, "trainings")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=80)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--at-once", type=int, default=2, help="processes")
    parser.add_argument("--only", default="", help="scenarios whose name has this in it, e.g. qat, or workers=2")
    parser.add_argument("--output", type=Path, help="file for the table")
    options = parser.parse_args()
    chosen = [scenario for scenario in SCENARIOS if options.only in str(scenario)]
    result = table(outcomes(options.kills, options.seed, chosen, options.at_once))
    print(result)
    if options.output:
        options.output.write_text(result + "\n")


if __name__ == "__main__":
    main()
