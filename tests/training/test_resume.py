"""A run that stops anywhere and resumes from its last checkpoint ends like one that never stopped, to the bit."""

import csv
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch

from gtcrn.losses import CompressedMagnitude, Loss
from gtcrn.models import light_v3
from gtcrn.training.callbacks import EarlyStopping, ValidationScores
from gtcrn.training.checkpoints import BestCheckpoint, LastCheckpoint, WholeFiles
from gtcrn.training.datamodule import SpeechDataModule
from gtcrn.training.masks import SpectrumMasks
from gtcrn.training.schedulers import warmup_cosine
from gtcrn.training.supervised import SupervisedModule
from gtcrn.training.table import MetricsTable

EPOCHS = {"max_epochs": 3}
STEPS = {"max_epochs": -1, "max_steps": 8, "check_val_every_n_epoch": None, "val_check_interval": 2}  # as qat's


class Stop(Exception):
    pass


class Journal(pl.callbacks.Checkpoint):
    """A callback that records the items of every step and validation, and stops at a given hook after so many steps."""

    def __init__(self, point=None, steps=None):
        self.point, self.steps = point, steps
        self.seen = []

    def stop(self, trainer, point):
        if (point, trainer.global_step) == (self.point, self.steps):
            raise Stop

    def on_before_optimizer_step(self, trainer, *args):
        self.stop(trainer, "within the step after")

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_index):
        self.seen.append((trainer.global_step, trainer.current_epoch, *batch["name"], float(batch["noisy"].sum())))

    def on_validation_batch_end(self, trainer, *args):
        self.stop(trainer, "in the validation")

    def on_validation_end(self, trainer, *args):
        self.seen.append((trainer.global_step, "validation", float(trainer.callback_metrics["val/si_sdr"])))

    def on_train_epoch_end(self, trainer, *args):
        self.stop(trainer, "before the epoch's checkpoint")

    def on_train_epoch_start(self, trainer, *args):
        self.stop(trainer, "after the epoch's checkpoint")


def steps_behind(folder: Path) -> int:
    last = folder / "last.ckpt"
    return torch.load(last, weights_only=True)["global_step"] if last.is_file() else 0


def run(data, journal, folder, length, minutes, ema_decay=None, callbacks=()):
    """Train, from the last checkpoint in the folder if there is one."""
    torch.manual_seed(0)
    last = folder / "last.ckpt"
    module = SupervisedModule(
        light_v3.build(width_mult=0.5, use_two_dpgrnn=False),
        Loss({"magnitude": CompressedMagnitude(70, 0.3, 512, 256)}),
        scheduler=partial(warmup_cosine, warmup_steps=2),
        ema_decay=ema_decay,
        masks=SpectrumMasks(seed=3),
    )
    best = BestCheckpoint(folder, "best", "val/si_sdr", "max")
    trainer = pl.Trainer(
        accelerator="cpu",
        callbacks=[ValidationScores(["si_sdr"], 1, 1), best, *callbacks, journal, LastCheckpoint(last, minutes)],
        plugins=[WholeFiles()],
        logger=MetricsTable(folder, steps_behind(folder)),
        log_every_n_steps=1,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        **length,
    )
    ckpt_path = str(last) if last.is_file() else None
    trainer.fit(module, datamodule=SpeechDataModule(data), ckpt_path=ckpt_path, weights_only=True)


def outcome(folder: Path) -> dict:
    """Return everything in the checkpoints that depends on the course of the run, and the rows of its table."""
    content = {name: torch.load(folder / name, weights_only=True) for name in ("last.ckpt", "best.ckpt")}
    with (folder / "metrics.csv").open(newline="") as file:
        return flat(content | {"rows": list(csv.DictReader(file))}, str(folder))


def flat(value, folder, place=""):
    if isinstance(value, dict | list | tuple):
        parts = value.items() if isinstance(value, dict) else enumerate(value)
        return {k: v for key, part in parts for k, v in flat(part, folder, f"{place}/{key}").items()}
    return {place.replace(folder, ""): value.replace(folder, "") if isinstance(value, str) else value}


WITHIN = [("within the step after", 4), ("in the validation", 6), ("within the step after", 8)]
ENDS = [("before the epoch's checkpoint", 3), ("after the epoch's checkpoint", 6), ("in the validation", 9)]
BY_STEPS = [("after the epoch's checkpoint", 3), ("in the validation", 4), ("before the epoch's checkpoint", 6)]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("length", "stops", "minutes", "workers", "ema_decay"),
    [
        pytest.param(EPOCHS, WITHIN, 5, 2, None, id="within epochs"),
        pytest.param(EPOCHS, ENDS, 1e-9, 0, 0.9, id="at their ends, a checkpoint a step, ema"),
        pytest.param(STEPS, BY_STEPS, 5, 0, 0.9, id="by steps, ema"),
        pytest.param(STEPS, BY_STEPS, 1e-9, 2, None, id="by steps, a checkpoint a step"),
    ],
)
def test_resumed_run_equals_uninterrupted_one(mini_data, tmp_path, length, stops, minutes, workers, ema_decay):
    """Five files in batches of two make epochs of three steps."""
    for name in ("whole", "stopped"):
        (tmp_path / name).mkdir()
    whole, seen = Journal(), []
    run(mini_data(), whole, tmp_path / "whole", length, 5, ema_decay)
    for stop in (*stops, None):
        journal = Journal(*stop) if stop else Journal()
        behind = steps_behind(tmp_path / "stopped")
        with pytest.raises(Stop) if stop else nullcontext():
            run(mini_data(workers), journal, tmp_path / "stopped", length, minutes, ema_decay)
        seen = [entry for entry in seen if entry[0] <= behind] + journal.seen
    assert seen == whole.seen

    expected, resumed = outcome(tmp_path / "whole"), outcome(tmp_path / "stopped")
    assert expected.keys() == resumed.keys()
    for place, value in expected.items():
        assert torch.equal(value, resumed[place]) if torch.is_tensor(value) else value == resumed[place], place


@pytest.mark.filterwarnings("ignore")
def test_early_stopping_counts_on(mini_data, tmp_path):
    """Nothing improves after the first validation, so a patience of two ends the run after three epochs."""

    def go(*point, patience=2):
        journal = Journal(*point)
        stopping = EarlyStopping("val/si_sdr", "max", patience, min_delta=100.0)
        with pytest.raises(Stop) if point else nullcontext():
            run(mini_data(), journal, tmp_path, {"max_epochs": 9}, 5, callbacks=[stopping])
        return [entry[0] for entry in journal.seen if entry[1] != "validation"]

    assert go("after the epoch's checkpoint", 6) == [1, 2, 3, 4, 5, 6]
    assert go() == [7, 8, 9]
    assert go() == []
    assert go(patience=3) == [10, 11, 12]


@pytest.mark.filterwarnings("ignore")
def test_a_finished_run_made_longer_trains_the_next_epoch(mini_data, tmp_path):
    run(mini_data(2), Journal(), tmp_path, {"max_epochs": 1}, 5)
    longer = Journal()
    run(mini_data(2), longer, tmp_path, {"max_epochs": 2}, 5)
    assert [(step, epoch) for step, epoch, *_ in longer.seen] == [(4, 1), (5, 1), (6, 1), (6, "validation")]
