"""Checkpoints: when a run is saved, and that the files stay whole whatever happens."""

import errno
import os
import signal

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from gtcrn.errors import Interrupted, UserError
from gtcrn.training import checkpoints
from gtcrn.training.checkpoints import BestCheckpoint, LastCheckpoint, WholeFiles


class Clock:
    """A clock that advances only when a step takes a second."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Module(pl.LightningModule):
    """A module whose steps take 1 s."""

    def __init__(self, clock):
        super().__init__()
        self.clock, self.layer = clock, torch.nn.Linear(1, 1)

    def training_step(self, batch, batch_index):
        self.clock.now += 1
        return self.layer(batch).sum()

    def validation_step(self, batch, batch_index):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Manual(Module):
    """A module under manual optimization."""

    def __init__(self, clock):
        super().__init__(clock)
        self.automatic_optimization = False

    def training_step(self, batch, batch_index):
        self.manual_backward(super().training_step(batch, batch_index))
        self.optimizers().step()


def fit(path, kind=Module, minutes=4 / 60, callbacks=(), **options):
    """Train with six steps an epoch."""
    clock = Clock()
    trainer = pl.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False, plugins=[WholeFiles()],
        callbacks=[*callbacks, LastCheckpoint(path, minutes, clock)], **{"max_epochs": 1} | options,
    )  # fmt: skip
    trainer.fit(kind(clock), DataLoader([torch.ones(1)] * 6), DataLoader([torch.ones(1)] * 2))


def step(path):
    return torch.load(path, weights_only=True)["global_step"]


class Steps(pl.Callback):
    """A callback that records the step of last.ckpt before every step, and sends a signal from a hook of a step."""

    def __init__(self, path, hook=None, at=None, number=signal.SIGTERM):
        self.path, self.seen = path, []
        self.at, self.number = at, number
        if hook:
            setattr(self, hook, self.send)

    def send(self, trainer, *args):
        if trainer.global_step == self.at:
            self.at = None
            os.kill(os.getpid(), self.number)

    def on_train_batch_end(self, trainer, *args):
        self.seen.append(step(self.path) if self.path.exists() else None)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", [Module, Manual])
def test_last_checkpoint_is_written_by_the_clock_and_at_the_end_of_an_epoch(kind, tmp_path):
    steps = Steps(tmp_path / "last.ckpt")
    fit(tmp_path / "last.ckpt", kind, callbacks=[steps])
    assert steps.seen == [None] * 4 + [4, 4] and step(tmp_path / "last.ckpt") == 6
    assert step(tmp_path / "previous.ckpt") == 4


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("options", "seen"),
    [
        ({"accumulate_grad_batches": 2}, [None, None, 1, 1, 2, 2]),
        ({"val_check_interval": 2}, [None, 1, 1, 3, 3, 5]),  # not between a validation and the next step
    ],
)
def test_last_checkpoint_waits_until_nothing_is_half_done(tmp_path, options, seen):
    steps = Steps(tmp_path / "last.ckpt")
    fit(tmp_path / "last.ckpt", minutes=1e-9, callbacks=[steps], **options)
    assert steps.seen == seen


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize(
    ("hook", "at", "saved"),
    [("on_before_backward", 2, 3), ("on_before_backward", 5, 6), ("on_validation_batch_start", 6, 6),
     ("on_before_backward", 11, 12)],
    ids=["within an epoch", "at its last step", "in its validation", "at the last step of all"],
)  # fmt: skip
def test_a_signal_saves_and_ends_the_run(tmp_path, number, code, hook, at, saved):
    last = tmp_path / "last.ckpt"
    with pytest.raises(Interrupted) as end:
        fit(last, minutes=5, callbacks=[Steps(last, hook, at, number)], max_epochs=2)
    assert str(end.value) == f"interrupted at step {saved}; go on with resume={last}" and end.value.code == code
    assert step(last) == saved


@pytest.mark.filterwarnings("ignore")
def test_a_signal_before_the_first_step_is_over_says_what_there_is(tmp_path):
    class Twice(pl.Callback):
        def on_train_batch_start(self, *args):
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(SystemExit):  # Lightning's answer to Ctrl-C
        fit(tmp_path / "last.ckpt", callbacks=[Twice()])
    assert not (tmp_path / "last.ckpt").exists()


def test_a_failed_write_leaves_what_was_there(tmp_path, monkeypatch):
    last, files = tmp_path / "last.ckpt", WholeFiles()
    for number in (1, 2):
        files.save_checkpoint({"global_step": number}, last)

    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpoints.Path, "write_bytes", full)
    with pytest.raises(UserError, match=f"{last}: can't be written \\(No space left on device; "):
        files.save_checkpoint({"global_step": 3}, last)
    assert step(last) == 2 and step(tmp_path / "previous.ckpt") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last.ckpt", "previous.ckpt"]


def test_the_best_stays_the_best_where_the_folder_was_moved(tmp_path):
    best = BestCheckpoint(tmp_path / "here", "best", "val/stoi", "max")
    best.best_k_models = {str(tmp_path / "here" / "best.ckpt"): torch.tensor(0.8)}
    best.best_model_path = best.kth_best_model_path = str(tmp_path / "here" / "best.ckpt")
    best.best_model_score = torch.tensor(0.8)
    moved = BestCheckpoint(tmp_path / "there", "best", "val/stoi", "max")
    moved.load_state_dict(best.state_dict())
    assert moved.best_model_path == str(tmp_path / "there" / "best.ckpt")
    assert moved.best_k_models == {moved.best_model_path: torch.tensor(0.8)}
