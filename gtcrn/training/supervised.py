"""Supervised training of any enhancer with any loss: noisy speech in, clean speech out."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Literal

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler

from gtcrn.errors import UserError
from gtcrn.losses import Loss, Signals
from gtcrn.models.enhancer import Enhancer
from gtcrn.models.pretrained import RECORD, load
from gtcrn.training.callbacks import MovingAverage
from gtcrn.training.compiling import check_compiler, compile_core
from gtcrn.training.masks import SpectrumMasks
from gtcrn.training.schedulers import warmup_cosine


class SupervisedModule(pl.LightningModule):
    """Training that minimises a loss between the enhanced and the clean speech.

    optimizer: makes the optimizer of the parameters that train. scheduler: makes the scheduler of an optimizer, which
    sets its learning rate after every step; if it has a parameter `total_steps`, it gets the length of the run.
    gradient_clip_norm: norm to which larger gradients are scaled down, None for no limit.
    ema_decay: validate and keep an exponential moving average of the weights, None for the weights themselves.
    masks: SpecAugment-style masks on the noisy spectrum while training, None for none.
    compile: mode of torch.compile for the enhancer's core while it trains, None for none; validation, with a length for
        every file, runs uncompiled.
    model_record: record from which `gtcrn.load` rebuilds the enhancer, written into every checkpoint.
    """

    needs_clean = True
    logged = ("loss",)  # values logged as `val/<name>` in every validation, besides the scores of callbacks

    def __init__(
        self,
        enhancer: Enhancer,
        loss: Loss,
        optimizer: Callable[..., Optimizer] = AdamW,
        scheduler: Callable[..., LRScheduler] = warmup_cosine,
        gradient_clip_norm: float | None = 3.0,
        ema_decay: float | None = None,
        masks: SpectrumMasks | None = None,
        compile: Literal["default", "reduce-overhead"] | None = None,
        model_record: dict | None = None,
    ):
        super().__init__()
        if gradient_clip_norm is not None and gradient_clip_norm <= 0:
            raise UserError(f"training.gradient_clip_norm={gradient_clip_norm}: must be above 0, or be null")
        if ema_decay is not None and not 0 < ema_decay < 1:
            raise UserError(f"training.ema_decay={ema_decay}: must lie between 0 and 1, or be null")
        self.enhancer = enhancer
        self.loss = loss
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.fused: list[str] = []  # keys of the fused optimizers
        self.check_optimizer(optimizer, "optimizer")
        self.gradient_clip_norm = gradient_clip_norm
        self.ema_decay = ema_decay
        self.masks = masks
        self.compile_mode = compile
        self.model_record = model_record
        self.input_level: float | None = None  # dBFS of the training data, see `Enhancer`

    def check_trainer(self, trainer: pl.Trainer) -> None:
        """Raise UserError, before the data are read, if this training can't work with the trainer's settings."""
        if trainer.gradient_clip_val is not None:
            raise UserError("trainer.gradient_clip_val: leave it out; training.gradient_clip_norm limits the gradients")
        if trainer.precision == "16-mixed" and self.fused:
            raise UserError(
                "trainer.precision=16-mixed scales the gradients, which a fused optimizer undoes too late to limit "
                f"their norm: set {self.fused[0]}.fused=false, or trainer.precision=bf16-mixed"
            )
        if self.compile_mode == "reduce-overhead" and trainer.accumulate_grad_batches > 1:
            raise UserError(
                f"training.compile=reduce-overhead with trainer.accumulate_grad_batches="
                f"{trainer.accumulate_grad_batches}: CUDA graphs overwrite the gradients that are to accumulate; "
                "set training.compile=default"
            )
        if self.compile_mode:
            check_compiler(self.compile_mode, trainer.strategy.root_device)

    def on_fit_start(self) -> None:
        if self.compile_mode:
            compile_core(self.enhancer.core, self.compile_mode)

    def training_step(self, batch: dict, batch_index: int) -> Tensor:
        """Return the loss of a batch. batch: noisy and clean (B, N), name: B file names."""
        total, terms = self.training_loss(self.estimate(batch["noisy"]), batch)
        self.check_loss(total, terms, batch)
        self.log("train/loss", total, prog_bar=True)
        self.log_dict({f"train/{name}": value for name, value in terms.items()})
        return total

    def estimate(self, noisy: Tensor) -> Signals:
        """Return the enhanced (B, N), whose spectrum is masked as in training."""
        masks = partial(self.masks, step=self.global_step) if self.masks else None
        return Signals(*self.enhancer.estimate(noisy, masks), self.enhancer.spectra)

    def training_loss(self, estimate: Signals, batch: dict) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the scalar to minimise, and its terms by name, detached."""
        return self.loss(estimate, self.target(batch["clean"]))

    def target(self, clean: Tensor) -> Signals:
        return Signals(clean, self.enhancer.spectra(clean))

    def check_loss(self, total: Tensor, terms: dict[str, Tensor], batch: dict) -> None:
        """Raise `UserError`, naming the files, if the loss is NaN or infinite."""
        if not torch.isfinite(total):
            parts = ", ".join(f"{name}={value:.3g}" for name, value in terms.items())
            raise UserError(
                f"loss is {total.item()} at step {self.global_step} ({parts}); batch: {', '.join(batch['name'])}; "
                "look at these files, or lower optimizer.lr; checkpoints/last.ckpt holds earlier weights"
            )

    def validation_step(self, batch: dict, batch_index: int) -> Tensor:
        """Return the enhanced waveform (B, N), for the callbacks that score and show it."""
        # a decorator would import torch's compiler for every training, which takes a second
        with torch.compiler.set_stance("force_eager") if self.compile_mode else nullcontext():
            estimate = Signals(*self.enhancer.estimate(batch["noisy"]), self.enhancer.spectra)
        total, terms = self.loss(estimate, self.target(batch["clean"]))
        values = {"val/loss": total} | {f"val/{name}": value for name, value in terms.items()}
        self.log_dict(values, batch_size=len(batch["noisy"]), sync_dist=True)
        return estimate.wave

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        norm = self.gradient_norm(optimizer)
        self.log("train/gradient_norm", norm)
        self.clip(optimizer, norm)

    def gradient_norm(self, optimizer: Optimizer, key: str = "optimizer.lr") -> Tensor:
        """Return the norm of the optimizer's gradients. Raises `UserError`, naming the `key`, if it is not finite."""
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters_of(optimizer) if p.grad is not None])
        if not torch.isfinite(norm) and self.trainer.precision != "16-mixed":  # there the scaler skips such steps
            raise UserError(
                f"gradient norm is {norm.item()} at step {self.global_step}, though the loss is finite; "
                f"lower {key}, or try trainer.precision=32-true"
            )
        return norm

    def clip(self, optimizer: Optimizer, norm: Tensor) -> None:
        """Scale the optimizer's gradients, whose norm is given, down to `gradient_clip_norm` if they are larger.

        Lightning would measure the norm again, and it refuses fused optimizers in bf16-mixed, where nothing is wrong.
        """
        if self.gradient_clip_norm:
            torch.nn.utils.clip_grads_with_norm_(parameters_of(optimizer), self.gradient_clip_norm, norm)

    def configure_callbacks(self) -> list[pl.Callback]:
        return [MovingAverage(self.ema_decay)] if self.ema_decay else []

    def configure_optimizers(self) -> dict:
        return self.scheduled(self.optimizer(trainable(self)), self.trainer.estimated_stepping_batches)

    def scheduled(self, optimizer: Optimizer, steps: float) -> dict:
        """Return Lightning's dict of an optimizer, which will take so many steps, and its scheduler.

        Raises UserError if the scheduler needs the number of steps and it is infinite.
        """
        total_steps = inspect.signature(self.scheduler).parameters.get("total_steps")
        known = {"total_steps": steps} if total_steps and total_steps.default in (inspect.Parameter.empty, None) else {}
        if known and steps == math.inf:
            raise UserError("the length of the run is unknown: set trainer.max_epochs or trainer.max_steps")
        scheduler = self.scheduler(optimizer, **known)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def check_optimizer(self, make: Callable[..., Optimizer], key: str) -> None:
        """Raise UserError, naming the `key`, before the data are read if optimizer or scheduler can't be made."""
        try:
            optimizer = make([nn.Parameter(torch.zeros(1))])
            if optimizer.defaults.get("fused"):
                self.fused.append(key)
            if optimizer.defaults["lr"] <= 0:
                raise UserError(f"{key}.lr={optimizer.defaults['lr']}: must be above 0")
            self.scheduled(optimizer, steps=1000)
        except (TypeError, ValueError) as error:
            raise UserError(f"{key} or scheduler: {error}; compare its keys with conf/") from error

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        checkpoint[RECORD] = {"model": self.model_record, "input_level": self.input_level}

    def trained(self, checkpoint: str | Path) -> Enhancer:
        """Return the trained model of a checkpoint, the one to score."""
        return load(checkpoint, trust=self.model_record["build"])


def parameters_of(optimizer: Optimizer) -> list[nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def trainable(part: nn.Module) -> list[nn.Parameter]:
    """Return the parameters of a part that are not frozen."""
    return [parameter for parameter in part.parameters() if parameter.requires_grad]
