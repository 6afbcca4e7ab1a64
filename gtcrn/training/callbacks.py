"""Callbacks of a training: audio metrics, clips, early stopping, seeds, averages, time left, waiting times."""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Timer, WeightAveraging
from pytorch_lightning.loggers import TensorBoardLogger, WandbLogger
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from gtcrn.data.audio import write
from gtcrn.errors import UserError
from gtcrn.metrics import WavePair, score_pairs
from gtcrn.plots.figures import save, spectrogram_figure
from gtcrn.plots.tables import HEADLINE, score_texts, summarise_by_snr

log = logging.getLogger(__name__)

_MUCH_WAITING = 0.05  # share of the time


class ScoreTable(Metric):
    """A metric that collects rows of scores, and joins those of all devices in one table.

    columns: names of the numbers in a row, the same on every device. A device may have no rows.
    """

    def __init__(self, columns: Sequence[str]):
        super().__init__()
        self.columns = list(columns)
        self.add_state("rows", default=[], dist_reduce_fx="cat")

    def update(self, scores: pd.DataFrame) -> None:
        """Add the rows of `scores`, which has all columns, or is empty."""
        values = scores.reindex(columns=self.columns).to_numpy(np.float32)
        self.rows.append(torch.from_numpy(values).to(self.device))

    def compute(self) -> pd.DataFrame:
        """Return the rows of all devices, those of the first device first."""
        return pd.DataFrame(dim_zero_cat(self.rows).cpu().numpy(), columns=self.columns, dtype=np.float64)


class ValidationScores(pl.Callback):
    """A callback that scores validation clips and logs their means as `val/<metric>`, by which checkpoints are chosen,
    and the means of the noisy input as `val/noisy_<metric>`.

    metrics: names from `gtcrn.metrics`. files: so many of the first clips are scored; several devices share them.
    Files for which a metric is undefined are counted in `val/failures` and left out of its mean.
    """

    def __init__(self, metrics: Sequence[str], files: int, workers: int = -1):
        self.metrics = list(metrics)
        self.files = files
        self.workers = workers
        self._pairs: list[WavePair] = []

    def setup(self, trainer: pl.Trainer, module: pl.LightningModule, stage: str) -> None:
        """Raise UserError if a term of the loss has the name of a measure: both are logged as `val/<name>`."""
        if taken := sorted(module.loss.terms.keys() & set(self.metrics)):
            raise UserError(f"loss.terms.{taken[0]}: is the name of a measure of metrics.validation too; take another")

    def on_validation_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Tensor, batch: dict, batch_index: int, *args
    ) -> None:
        # every device validates all files, one per batch, but scores only its share of them
        if not self.metrics or batch_index >= self.files or batch_index % trainer.world_size != trainer.global_rank:
            return
        clean = batch.get("clean", [None] * len(outputs))
        for name, *waves, snr in zip(batch["name"], batch["noisy"], clean, outputs, batch["snr"], strict=True):
            noisy, clean, enhanced = (wave if wave is None else wave.float().cpu().numpy() for wave in waves)
            self._pairs.append(WavePair(name, clean, enhanced, noisy, info={"snr": float(snr)}))

    def on_validation_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        pairs, self._pairs = self._pairs, []
        if trainer.sanity_checking:
            return
        shown = {name: trainer.callback_metrics[f"val/{name}"] for name in module.logged}
        if self.metrics:
            scores = self._scores(pairs, module)
            means = scores[[f"enhanced_{metric}" for metric in self.metrics]].mean()
            shown |= means.rename(lambda column: column.replace("enhanced_", "")).to_dict()
            module.log_dict({f"val/{name}": shown[name] for name in self.metrics}, sync_dist=True)
            noisy = scores[[column for column in scores if column.startswith("noisy_")]].mean()
            module.log_dict({f"val/{name}": value for name, value in noisy.items()}, sync_dist=True)
            module.log("val/failures", scores["failed"].sum(), sync_dist=True)
            by_snr = {label: summary["enhanced"] for label, summary in summarise_by_snr(scores).items()}
            if by_snr:
                _log_by_snr(trainer, pd.DataFrame(by_snr).T.rename_axis("input SNR"))
        line = "  ".join(f"{name} {value:.3f}" for name, value in shown.items())
        log.info("epoch %d, step %d: %s", trainer.current_epoch, trainer.global_step, line)

    def _scores(self, pairs: list[WavePair], module: pl.LightningModule) -> pd.DataFrame:
        """Return the scores of the pairs of all devices; `failed` is 1 where a score is missing, else 0."""
        scores = score_pairs(pairs, self.metrics, module.enhancer.sample_rate, self.workers, progress=False)
        roles = [f"{role}_{metric}" for role in ("noisy", "enhanced") for metric in self.metrics]
        table = ScoreTable(["snr", *roles, "failed"]).to(module.device)
        table.update(scores.assign(failed=scores["failures"] != "") if pairs else scores)
        return table.compute()


class ValidationClips(pl.Callback):
    """A callback that writes a few fixed validation clips as audio and spectrograms, on disk and to the loggers.

    The trainer's folder gets `validation/epoch_000/<clip>_{noisy,enhanced,clean}.wav` and `<clip>.png`.
    count: number of clips. every: validations from one writing to the next; the last epoch is always written.
    """

    def __init__(self, count: int, every: int):
        self.count = count
        self.every = every

    def on_validation_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Tensor, batch: dict, batch_index: int, *args
    ) -> None:
        last = trainer.max_epochs and trainer.current_epoch + 1 >= trainer.max_epochs
        validations_before = (trainer.current_epoch + 1) // (trainer.check_val_every_n_epoch or 1) - 1
        due = validations_before % self.every == 0 or last
        files = int(trainer.num_val_batches[0])
        count = min(self.count, files)
        chosen = {round(i * (files - 1) / max(1, count - 1)) for i in range(count)}  # from the whole set
        if trainer.sanity_checking or not trainer.is_global_zero or not due or batch_index not in chosen:
            return
        rate = module.enhancer.sample_rate
        waves = {"noisy": batch["noisy"], "enhanced": outputs} | ({"clean": batch["clean"]} if "clean" in batch else {})
        waves = {role: wave[0].float().cpu().numpy() for role, wave in waves.items()}
        name = batch["name"][0]
        folder = Path(trainer.default_root_dir) / "validation" / f"epoch_{trainer.current_epoch:03d}"
        folder.mkdir(parents=True, exist_ok=True)
        for role, wave in waves.items():
            write(folder / f"{name}_{role}.wav", wave, rate)
        texts = {}
        if "clean" in waves:
            pair = WavePair(name, waves["clean"], waves["enhanced"], waves["noisy"])
            texts = score_texts(score_pairs([pair], HEADLINE, rate, workers=1, progress=False).loc[0])
        figure = spectrogram_figure(waves, rate, title=f"{name}, epoch {trainer.current_epoch}", scores=texts)
        save(figure, folder / f"{name}.png", dpi=120)
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.log_audio(
                    f"clips/{name}",
                    list(waves.values()),
                    sample_rate=[rate] * len(waves),
                    caption=list(waves),
                )
                logger.log_image(f"spectrograms/{name}", [str(folder / f"{name}.png")])
            elif isinstance(logger, TensorBoardLogger):
                for role, wave in waves.items():
                    logger.experiment.add_audio(f"clips/{name}/{role}", wave[None], trainer.global_step, rate)
                logger.experiment.add_figure(f"spectrograms/{name}", figure, trainer.global_step)
        del figure
        gc.collect()  # figures hold reference cycles, and would stay in memory, tens of MB each, for many epochs


class EarlyStopping(pl.callbacks.EarlyStopping):
    """A callback that ends a run when the monitored value has not improved over some validations.

    monitor: as logged, e.g. `val/loss`. mode: `min` or `max`. patience: validations without progress. min_delta: a
    smaller improvement is no progress, nor is NaN. A resumed run goes on counting, with the patience of its own
    configuration; one that was ended ends at once.
    """

    def __init__(self, monitor: str, mode: Literal["min", "max"], patience: int = 10, min_delta: float = 0.0):
        super().__init__(monitor, min_delta, patience, mode=mode, check_finite=False, check_on_train_epoch_end=False)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict | {"patience": self.patience})

    def on_train_start(self, trainer: pl.Trainer, *args) -> None:
        trainer.should_stop |= self.wait_count >= self.patience

    def on_train_end(self, trainer: pl.Trainer, *args) -> None:
        if self.wait_count >= self.patience:
            log.info("ended early: %s was no better for %d validations", self.monitor, self.wait_count)


class StepSeeds(pl.Callback):
    """A callback that makes the random numbers of every step, such as those of dropout, a function of (seed, step,
    device), so that a resumed run draws the same ones.
    """

    def __init__(self, seed: int):
        self.seed = seed

    def on_train_batch_start(self, trainer: pl.Trainer, *args) -> None:
        torch.manual_seed(hash((self.seed, trainer.global_step, trainer.global_rank)) % 2**63)


class MovingAverage(WeightAveraging):
    """An exponential moving average of the weights, which validation and checkpoints use in place of the weights.

    decay: share of the old average at every step; (1 + n) / (10 + n) after n steps where that is less, so that the
    weights before the training are soon forgotten. Frozen weights stay equal to the bit, which Lightning's own
    d · x + (1 - d) · x does not guarantee; integers, which are counters, are copied.
    """

    def __init__(self, decay: float):
        def average(old: Tensor, new: Tensor, count: Tensor) -> Tensor:
            share = min(decay, (1 + int(count)) / (10 + int(count)))
            return old.lerp(new.to(old.device), 1 - share) if old.is_floating_point() else new

        super().__init__(use_buffers=True, avg_fn=average)


class Progress(pl.Callback):
    """A callback that logs how far a training is and how long it will still take, at most once in `every` seconds.

    Log files, which have no progress bar, show the same lines. job: what they begin with, e.g. `job 2 of 4, `.
    jobs_after: number of jobs that a sweep runs after this one, each of which is taken to last as long.
    clock: returns seconds.
    """

    def __init__(
        self, job: str = "", jobs_after: int = 0, every: float = 60.0, clock: Callable[[], float] = time.perf_counter
    ):
        self.job, self.jobs_after, self.every, self.clock = job, jobs_after, every, clock

    def on_train_start(self, trainer: pl.Trainer, *args) -> None:
        self._started = self._logged = self.clock()
        self._share_at_start: float | None = None

    def on_train_batch_start(self, trainer: pl.Trainer, *args) -> None:
        if self._share_at_start is None:  # above 0 in a run that is resumed, whose count of batches is right only now
            self._share_at_start = self._share(trainer)

    def on_train_batch_end(self, trainer: pl.Trainer, *args) -> None:
        now, share = self.clock(), self._share(trainer)
        if now - self._logged < self.every or not self._share_at_start < share < 1 or not trainer.is_global_zero:
            return
        self._logged = now
        whole = (now - self._started) / (share - self._share_at_start)
        left = whole * (1 - share)
        sweep = f", the sweep about {_duration(left + self.jobs_after * whole)}" if self.jobs_after else ""
        epoch = trainer.current_epoch + 1
        log.info("%sepoch %d, %.0f %%: about %s left%s", self.job, epoch, 100 * share, _duration(left), sweep)

    def _share(self, trainer: pl.Trainer) -> float:
        """Return which share of the training is done: of its epochs, its steps or its time, whichever ends it first."""
        loop = trainer.fit_loop.epoch_loop
        epochs = trainer.current_epoch + loop.batch_progress.current.processed / trainer.num_training_batches
        times = [0.0]
        for timer in trainer.callbacks:
            if isinstance(timer, Timer) and (left := timer.time_remaining()) is not None:  # of trainer.max_time
                times.append(timer.time_elapsed() / (timer.time_elapsed() + left))
        # a limit of -1 is none, and gives a share below 0
        return max(epochs / (trainer.max_epochs or 1), trainer.global_step / trainer.max_steps, *times)


class Pace(pl.Callback):
    """A callback that measures the share of time in which training waits for batches, and the seconds of audio that all
    devices together train on in a second. Every epoch logs them, as `train/data_wait` and `train/audio_per_second`.

    Time runs from the end of one batch to the end of the next, waiting from that end to the beginning of the next.
    So starting the loader's workers before the first batch of an epoch does not count, nor do validation and
    checkpoints between epochs. Logging after a batch, about a millisecond, counts as waiting.
    clock: returns seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter):
        self.clock = clock
        self._begun, self._ended = 0.0, None
        self._audio = 0.0  # of this epoch, s
        self._epoch, self._run = np.zeros(2), np.zeros(2)  # [waiting, all] time in s
        self._advised = False

    @property
    def share(self) -> float | None:
        """Return the share over the epochs so far, 0 to 1; None before the first two consecutive batches."""
        waited, seconds = self._run
        return waited / seconds if seconds else None

    def state_dict(self) -> dict[str, list[float]]:
        return {"run": self._run.tolist()}

    def load_state_dict(self, state_dict: dict[str, list[float]]) -> None:
        self._run = np.array(state_dict["run"])

    def on_train_batch_start(self, *args) -> None:
        self._begun = self.clock()

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: dict, *args
    ) -> None:
        ended = self.clock()
        if self._ended is not None:
            self._epoch += (self._begun - self._ended, ended - self._ended)
            self._audio += trainer.world_size * batch["noisy"].numel() / module.enhancer.sample_rate
        self._ended = ended

    def on_validation_start(self, *args) -> None:
        self._ended = None

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        waited, seconds = self._epoch
        self._run += self._epoch
        audio, self._audio = self._audio, 0.0
        self._epoch, self._ended = np.zeros(2), None
        if not seconds:
            return
        pace = {"train/data_wait": waited / seconds, "train/audio_per_second": audio / seconds}
        for logger in trainer.loggers:  # what a module logs here comes after the epoch's checkpoint
            logger.log_metrics(pace | {"epoch": trainer.current_epoch}, trainer.global_step - 1)
        if trainer.is_global_zero:
            log.info("epoch %d: trained on %.1f s of audio per second", trainer.current_epoch, audio / seconds)
        if waited / seconds > _MUCH_WAITING and not self._advised and trainer.is_global_zero:
            self._advised = True
            log.info(
                "training waited %.0f %% of the time for data: raise data.num_workers (now %d), or see what takes it "
                "with task=profile profile=data",
                100 * waited / seconds,
                trainer.train_dataloader.num_workers,
            )


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{max(minutes, 1)} min"


def _log_by_snr(trainer: pl.Trainer, scores: pd.DataFrame) -> None:
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):  # one curve each, because a table would make W&B wait for its server
            logger.log_metrics(
                {f"val_by_snr/{metric} at {snr}": score for (snr, metric), score in scores.stack().items()}
            )
        elif isinstance(logger, TensorBoardLogger):
            logger.experiment.add_text("val/by_snr", f"```\n{scores.round(3)}\n```", trainer.global_step)
