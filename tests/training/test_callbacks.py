"""Callbacks, timed by a clock that the dataset and the model advance."""

import copy
import gc
import logging
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from matplotlib.figure import Figure
from pytorch_lightning.loggers.logger import DummyLogger
from torch.utils.data import DataLoader

from gtcrn.errors import UserError
from gtcrn.training.callbacks import MovingAverage, Pace, Progress, StepSeeds, ValidationClips, ValidationScores


class Clock:
    """A clock that advances only when a part of the training says so."""

    def __init__(self):
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Items:
    def __init__(self, clock, seconds, first_seconds):
        self.clock, self.seconds, self.first_seconds = clock, seconds, first_seconds

    def __len__(self):
        return 6

    def __getitem__(self, index):
        self.clock.now += self.first_seconds if index == 0 else self.seconds
        return {"noisy": torch.ones(8000)}


class Module(pl.LightningModule):
    """A module whose steps take 1 s, and validation batches 50 s."""

    def __init__(self, clock):
        super().__init__()
        self.clock, self.layer = clock, torch.nn.Linear(1, 1)
        self.enhancer = SimpleNamespace(sample_rate=16000)

    def training_step(self, batch, batch_index):
        self.clock.now += 1
        return self.layer(batch["noisy"][:, :1]).sum()

    def validation_step(self, batch, batch_index):
        self.clock.now += 50

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(seconds, first_seconds=0.0, epochs=2, **options):
    """Train, and return the callback and the values that the epochs logged."""
    clock = Clock()
    wait, logged = Pace(clock), []

    class Journal(pl.Callback):
        def on_train_epoch_start(self, *args):
            clock.now += 1000  # whatever stands between epochs

    class Logger(DummyLogger):
        def log_metrics(self, metrics, step):
            logged.append((metrics["train/data_wait"], metrics["train/audio_per_second"], step))

    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=epochs, logger=Logger(), enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[wait, Journal()], **options,
    )  # fmt: skip
    items = Items(clock, seconds, first_seconds)
    trainer.fit(Module(clock), DataLoader(items, 1), DataLoader([torch.ones(1)] * 2))
    return wait, logged


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("seconds", "share"), [(3.0, 0.75), (1.0, 0.5), (0.0, 0.0)])
def test_share_of_waiting(seconds, share):
    wait, logged = fit(seconds)
    assert wait.share == pytest.approx(share)
    row = pytest.approx(share), pytest.approx(0.5 / (1 + seconds))  # half a second of audio a step
    assert logged == [(*row, 5), (*row, 11)]  # at the last step of either epoch


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("options", [{}, {"val_check_interval": 3}], ids=["validated after", "validated within"])
def test_start_of_the_loader_validation_and_what_is_between_epochs_do_not_count(options):
    wait, logged = fit(3.0, first_seconds=500.0, **options)
    assert wait.share == logged[-1][0] == pytest.approx(0.75)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("options", [{"max_epochs": 4}, {"max_steps": 24, "max_epochs": -1}], ids=["epochs", "steps"])
def test_progress_and_the_time_left_are_told(caplog, options):
    """24 steps of 20 s take 480 s; two more jobs follow."""
    caplog.set_level(logging.INFO)
    clock = Clock()
    trainer = pl.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False, limit_val_batches=0,
        enable_model_summary=False, callbacks=[Progress("job 2 of 4, ", 2, every=160, clock=clock)], **options,
    )  # fmt: skip
    trainer.fit(Module(clock), DataLoader(Items(clock, 19, 19), 1))
    told = [record.getMessage() for record in caplog.records if record.name.startswith("gtcrn")]
    assert told == [
        "job 2 of 4, epoch 2, 33 %: about 5 min left, the sweep about 21 min",
        "job 2 of 4, epoch 3, 67 %: about 3 min left, the sweep about 19 min",
    ]


@pytest.mark.filterwarnings("ignore")
def test_progress_of_a_training_that_only_its_time_ends(caplog):
    """trainer.max_time is 200 s, and a step takes 20 s."""
    caplog.set_level(logging.INFO)
    clock = Clock()

    class Limit(pl.callbacks.Timer):
        def time_elapsed(self, *args):
            return clock.now

    trainer = pl.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False, limit_val_batches=0,
        enable_model_summary=False, max_epochs=-1,
        callbacks=[Progress(every=100, clock=clock), Limit({"seconds": 200})],
    )  # fmt: skip
    trainer.fit(Module(clock), DataLoader(Items(clock, 19, 19), 1))
    told = [record.getMessage() for record in caplog.records if record.name.startswith("gtcrn")]
    assert told == ["epoch 1, 50 %: about 2 min left"]


@pytest.mark.filterwarnings("ignore")
def test_progress_of_a_resumed_training(caplog, tmp_path):
    """A checkpoint from the end of epoch 2 of 4: half of it, 240 s of 480, is left."""
    caplog.set_level(logging.INFO)

    def train(epochs, *callbacks, **options):
        clock = Clock()
        trainer = pl.Trainer(
            accelerator="cpu", logger=False, enable_progress_bar=False, limit_val_batches=0, max_epochs=epochs,
            enable_model_summary=False, default_root_dir=tmp_path,
            callbacks=[Progress(every=100, clock=clock), *callbacks],
        )  # fmt: skip
        trainer.fit(Module(clock), DataLoader(Items(clock, 19, 19), 1), weights_only=True, **options)

    train(2, pl.callbacks.ModelCheckpoint(tmp_path, "end", save_on_train_epoch_end=True))
    caplog.clear()
    train(4, ckpt_path=tmp_path / "end.ckpt")
    told = [record.getMessage() for record in caplog.records if record.name.startswith("gtcrn")]
    assert told == ["epoch 3, 71 %: about 2 min left", "epoch 4, 92 %: about 1 min left"]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("seconds", "lines"), [(0.25, 1), (0.04, 0)])
def test_much_waiting_is_told_once_with_advice(caplog, seconds, lines):
    caplog.set_level(logging.INFO)
    fit(seconds, epochs=3)
    told = [record.getMessage() for record in caplog.records if record.name.startswith("gtcrn")]
    assert told.count("epoch 2: trained on 0.4 s of audio per second") == (seconds == 0.25)
    advice = [line for line in told if line.startswith("training")]
    assert len(advice) == lines
    for line in advice:
        assert line.startswith("training waited 20 % of the time for data: raise data.num_workers (now 0)")


@pytest.mark.filterwarnings("ignore")
def test_one_batch_says_nothing():
    wait, logged = fit(3.0, limit_train_batches=1)
    assert wait.share is None and not logged


@pytest.mark.filterwarnings("ignore")
def test_random_numbers_of_a_step_depend_on_nothing_before():
    drawn = []

    class Draw(pl.Callback):
        def on_train_batch_start(self, *args):
            drawn.append(torch.rand(1).item())

    for burnt in (0, 3):
        torch.rand(burnt)
        trainer = pl.Trainer(
            accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, callbacks=[StepSeeds(5), Draw()],
        )  # fmt: skip
        trainer.fit(Module(Clock()), DataLoader([{"noisy": torch.ones(1)}] * 3))
    assert drawn[:3] == drawn[3:] and len(set(drawn)) == 3


def test_average_moves_towards_the_weights_and_leaves_what_stays():
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(3))
    average = torch.optim.swa_utils.AveragedModel(model, use_buffers=True, **MovingAverage(0.1)._kwargs)
    average.update_parameters(model)  # begins as the model
    before = copy.deepcopy(model)
    with torch.no_grad():
        model[0].weight += 1
        model[1].num_batches_tracked += 3
    average.update_parameters(model)
    torch.testing.assert_close(average.module[0].weight, before[0].weight + 0.9)
    assert average.module[1].num_batches_tracked == 3
    for _ in range(50):
        average.update_parameters(model)
    assert torch.equal(average.module[0].bias, before[0].bias)


def test_average_soon_forgets_the_weights_before_the_training():
    """After 99 steps with a decay of 0.999 they would still be 9 tenths of the average."""
    model = torch.nn.Linear(1, 1, bias=False)
    average = torch.optim.swa_utils.AveragedModel(model, use_buffers=True, **MovingAverage(0.999)._kwargs)
    torch.nn.init.constant_(model.weight, 1e6)
    average.update_parameters(model)
    torch.nn.init.constant_(model.weight, 1.0)
    for _ in range(99):
        average.update_parameters(model)
    assert average.module.weight.item() < 1.1


def test_no_figure_of_a_clip_stays_in_memory(tmp_path):
    trainer = SimpleNamespace(
        max_epochs=9, current_epoch=0, check_val_every_n_epoch=1, num_val_batches=[1], sanity_checking=False,
        is_global_zero=True, loggers=[], global_step=0, default_root_dir=tmp_path,
    )  # fmt: skip
    module = SimpleNamespace(enhancer=SimpleNamespace(sample_rate=8000))
    noisy = torch.rand(1, 8000, generator=torch.Generator().manual_seed(0))
    batch = {"noisy": noisy, "clean": noisy / 2, "name": ["a"]}

    def figures() -> int:
        return sum(type(thing) is Figure for thing in gc.get_objects())  # isinstance fails at dead weak proxies

    gc.collect()
    before = figures()
    gc.disable()  # as between two of the collections that Python makes by itself
    try:
        clips = ValidationClips(count=10**12, every=1)  # of as many clips as there are
        clips.on_validation_batch_end(trainer, module, noisy, batch, 0)
        assert (tmp_path / "validation/epoch_000/a.png").is_file() and figures() == before
    finally:
        gc.enable()


def test_no_term_of_a_loss_is_logged_where_a_measure_is():
    module = SimpleNamespace(loss=SimpleNamespace(terms={"magnitude": None, "stoi": None}))
    with pytest.raises(UserError, match="^loss.terms.stoi: is the name of a measure of metrics.validation too"):
        ValidationScores(["pesq_wb", "stoi"], files=1).setup(None, module, "fit")
