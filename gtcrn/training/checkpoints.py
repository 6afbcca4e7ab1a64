"""Checkpoints of a run are written whole, at points from which it resumes as if it had never stopped."""

from __future__ import annotations

import io
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint, ModelCheckpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO

from gtcrn.errors import Interrupted, Terminated
from gtcrn.files import whole

LAST = "last.ckpt"
PREVIOUS = "previous.ckpt"  # the last.ckpt before, in case that is damaged

_METRICS = "metrics"  # key in checkpoints: the last logged values, by name


def way_on(last: Path) -> str:
    """Return the advice how to resume the run of this last.ckpt, whether that exists yet or not."""
    return f"go on with resume={last}" if last.is_file() else "nothing was saved yet"


class WholeFiles(TorchCheckpointIO):
    """A CheckpointIO that writes each file whole or not at all, and keeps the previous last.ckpt."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint. Raises UserError if the file can't be written."""
        path = Path(path)
        content = io.BytesIO()
        torch.save(checkpoint, content)
        with whole(path) as partial:
            partial.write_bytes(content.getbuffer())
            if path.name == LAST and path.exists():
                os.replace(path, path.with_name(PREVIOUS))


class BestCheckpoint(ModelCheckpoint):
    """A callback that keeps the checkpoint of the best validation as `folder/name.ckpt`, even in a moved folder."""

    def __init__(self, folder: Path, name: str, monitor: str, mode: str):
        super().__init__(folder, name, monitor=monitor, mode=mode, enable_version_counter=False)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        here = self.format_checkpoint_name({})
        paths = {key: here for key in ("best_model_path", "kth_best_model_path") if state_dict[key]}
        scores = dict.fromkeys(paths.values(), state_dict["best_model_score"])
        super().load_state_dict(state_dict | {"dirpath": self.dirpath, "best_k_models": scores} | paths)
        self.current_score = state_dict["current_score"]


class LastCheckpoint(Checkpoint):
    """A callback that writes `path` between two steps every so many minutes, at the end of every epoch, and on Ctrl-C
    or SIGTERM, which then ends the run with `Interrupted`. A signal during a validation waits for its end; a second one
    ends the process at once.

    A checkpoint is written when everything of the steps before is logged and the next one has not begun: after a
    validation within an epoch, and while gradients accumulate, it waits for the end of the next step. Therefore
    Lightning's count of batches, less the one about to begin, is a point from which it resumes exactly.

    clock: returns seconds.
    """

    def __init__(self, path: Path, minutes: float, clock: Callable[[], float] = time.monotonic):
        self.path = path
        self.seconds = 60 * minutes
        self.clock = clock
        self.metrics: dict[str, float] = {}  # last logged values, also those of the run that is resumed
        self._saved = 0.0
        self._validated = False  # whether a validation ran since the last step
        self._signal: int | None = None

    def on_train_start(self, trainer: pl.Trainer, *args) -> None:
        self._saved = self.clock()
        if not trainer.fit_loop.restarted_mid_epoch:
            # with max_steps Lightning believes that every resumed run was stopped within an epoch
            trainer.fit_loop.epoch_loop.restarting = False
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, self._ask)  # Lightning restores the handlers at the end

    def on_train_batch_start(self, trainer: pl.Trainer, module: pl.LightningModule, batch: Any, batches: int) -> None:
        """Save or end the run if that is due. batches: number of batches of this epoch so far."""
        due = self.clock() - self._saved >= self.seconds
        due, number = trainer.strategy.broadcast((due, self._signal))
        between = batches % trainer.accumulate_grad_batches == 0 and not self._validated
        if between and batches > 0 and (due or number):
            self._save(trainer)
        if between and number:
            self._end(trainer, number)

    def on_train_batch_end(self, *args) -> None:
        self._validated = False

    def on_validation_end(self, *args) -> None:
        self._validated = True

    def on_train_epoch_end(self, trainer: pl.Trainer, *args) -> None:
        self._save(trainer)
        self._validated = False

    def on_train_end(self, trainer: pl.Trainer, *args) -> None:
        if number := trainer.strategy.broadcast(self._signal):
            self._end(trainer, number)

    def on_save_checkpoint(self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint[_METRICS] = {name: float(value) for name, value in trainer.callback_metrics.items()}
        loop = checkpoint["loops"]["fit_loop"]
        for count in loop["epoch_progress"].values():
            count["completed"] = count["processed"]  # Lightning counts the epoch only after this hook, but it is over
        batches = loop["epoch_loop.batch_progress"]
        for count in (batches["total"], batches["current"]):
            count["ready"] = count["started"]  # the batch that is about to begin does not count
        batches["is_last_batch"] = False

    def on_load_checkpoint(self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        self.metrics = checkpoint.get(_METRICS, {})

    def _save(self, trainer: pl.Trainer) -> None:
        trainer.save_checkpoint(self.path)
        self._saved = self.clock()

    def _end(self, trainer: pl.Trainer, number: int) -> None:
        raise Interrupted(f"interrupted at step {trainer.global_step}; {way_on(self.path)}", 128 + number)

    def _ask(self, number: int, frame: Any) -> None:
        if self._signal:
            raise Terminated if number == signal.SIGTERM else KeyboardInterrupt
        self._signal = number
        # not print: the signal may have interrupted another print, and print is not reentrant
        os.write(2, b"\nstopping after this step, or this validation; the same again stops at once\n")
