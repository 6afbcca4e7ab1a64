"""What callbacks do, by a clock that the dataset and the model turn."""

import copy
import logging

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from gtcrn.errors import UserError
from gtcrn.training.callbacks import DataWait, LastCheckpoint, MovingAverage


class Clock:
    """Seconds that pass only when something says that it took some."""

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
        return torch.ones(1)


class Module(pl.LightningModule):
    """A step takes 1 s, a validation batch 50 s."""

    def __init__(self, clock):
        super().__init__()
        self.clock, self.layer = clock, torch.nn.Linear(1, 1)

    def training_step(self, batch, batch_index):
        self.clock.now += 1
        return self.layer(batch).sum()

    def validation_step(self, batch, batch_index):
        self.clock.now += 50

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(seconds, first_seconds=0.0, epochs=2, **options):
    """Returns the callback and the epochs' logged values."""
    clock = Clock()
    wait, logged = DataWait(clock), []

    class Journal(pl.Callback):
        def on_train_epoch_start(self, *args):
            clock.now += 1000  # whatever stands between epochs

        def on_train_end(self, trainer, module):
            logged.append(trainer.callback_metrics.get("train/data_wait"))

    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=epochs, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[wait, Journal()], **options,
    )  # fmt: skip
    items = Items(clock, seconds, first_seconds)
    trainer.fit(Module(clock), DataLoader(items, 1), DataLoader([torch.ones(1)] * 2))
    return wait, logged[0]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("seconds", "share"), [(3.0, 0.75), (1.0, 0.5), (0.0, 0.0)])
def test_share_of_waiting(seconds, share):
    wait, logged = fit(seconds)
    assert wait.share == logged == pytest.approx(share)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("options", [{}, {"val_check_interval": 3}], ids=["validated after", "validated within"])
def test_start_of_the_loader_validation_and_what_is_between_epochs_do_not_count(options):
    wait, logged = fit(3.0, first_seconds=500.0, **options)
    assert wait.share == logged == pytest.approx(0.75)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("seconds", "lines"), [(0.25, 1), (0.04, 0)])
def test_much_waiting_is_told_once_with_advice(caplog, seconds, lines):
    caplog.set_level(logging.INFO)
    fit(seconds, epochs=3)
    told = [record.getMessage() for record in caplog.records if record.name.startswith("gtcrn")]
    assert len(told) == lines
    for line in told:
        assert line.startswith("training waited 20 % of the time for data: raise data.num_workers (now 0)")


@pytest.mark.filterwarnings("ignore")
def test_one_batch_says_nothing():
    wait, logged = fit(3.0, limit_train_batches=1)
    assert wait.share is None and logged is None


class Manual(Module):
    """A module that steps its optimiser itself."""

    def __init__(self, clock):
        super().__init__(clock)
        self.automatic_optimization = False

    def training_step(self, batch, batch_index):
        self.manual_backward(super().training_step(batch, batch_index))
        self.optimizers().step()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", [Module, Manual])
def test_last_checkpoint_is_written_by_the_clock(kind, tmp_path):
    clock, saved = Clock(), []

    class Last(LastCheckpoint):
        def on_train_batch_end(self, trainer, *args):
            super().on_train_batch_end(trainer, *args)
            if self.path.exists():
                saved.append((trainer.global_step, torch.load(self.path, weights_only=True)["global_step"]))

    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[Last(tmp_path / "last.ckpt", minutes=4 / 60, clock=clock)],
    )  # fmt: skip
    trainer.fit(kind(clock), DataLoader(Items(clock, 1.0, 1.0), 1))  # every item and every step take a second
    assert saved == [(2, 2), (3, 2), (4, 4), (5, 4), (6, 6)]


def test_checkpoints_need_time_between_them():
    for minutes in (0, "five"):
        with pytest.raises(UserError, match=f"checkpoint_minutes={minutes}: must be a number above 0"):
            LastCheckpoint("last.ckpt", minutes)


def test_average_moves_towards_the_weights_and_leaves_what_stays():
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(3))
    average = torch.optim.swa_utils.AveragedModel(model, use_buffers=True, **MovingAverage(0.9)._kwargs)
    average.update_parameters(model)  # begins as the model
    before = copy.deepcopy(model)
    with torch.no_grad():
        model[0].weight += 1
        model[1].num_batches_tracked += 3
    average.update_parameters(model)
    torch.testing.assert_close(average.module[0].weight, before[0].weight + 0.1)
    assert average.module[1].num_batches_tracked == 3
    for _ in range(50):
        average.update_parameters(model)
    assert torch.equal(average.module[0].bias, before[0].bias)
