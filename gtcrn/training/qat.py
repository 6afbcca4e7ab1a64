"""Quantization-aware training: a network in integers learns to reproduce the output of its own float model."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from gtcrn.errors import UserError
from gtcrn.losses import Loss, Signals
from gtcrn.losses.waveform import output_snr
from gtcrn.models.enhancer import Enhancer
from gtcrn.models.pretrained import RECORD
from gtcrn.quantization.checkpoint import INTEGERS, load_simulation, new_network, simulation
from gtcrn.training.supervised import SupervisedModule, trainable

_BITS = 8
_ZERO_POINTS = (-128.0, 127.0)
_QUIETEST = 1e-5  # least rms and peak by which a crop is scaled, so that silence stays silence


class QuantizationModule(SupervisedModule):
    """Training that minimises the loss between the output of simulated integers and the float model's output.

    No clean speech is needed. It learns weights, biases and slopes of the network in integers, and the scale and zero
    point of every tensor but the input, starting from ranges calibrated on the first batches. The float model stays
    unchanged, in evaluation mode, and is saved too: `gtcrn.load` returns it, `gtcrn.quantization.checkpoint` the
    integers.

    enhancer: the trained float model, which must have an integer form. loss: compares (integers, float).
    scale_lr, zero_point_lr: learning rates of the logarithms of the scales and of the zero points. The optimizer's is
    for weights, biases and slopes, which are normalised to about one. All three follow the same scheduler.
    level: range in dBFS of the random rms of training crops. input_peak: largest band that the input's range holds.
    rho: steps of the input's residual in one step of the input. calibration_batches: batches that set the first ranges.
    seed: seed of the levels. options: those of `SupervisedModule`.

    Raises UserError for impossible values, and for a model that looks ahead or has no form in integers.
    """

    needs_clean = False
    logged = ("loss", "snr")

    def __init__(
        self,
        enhancer: Enhancer,
        loss: Loss,
        scale_lr: float = 2e-3,
        zero_point_lr: float = 0.1,
        level: Sequence[float] = (-44.0, -10.0),
        input_peak: float = 80.0,
        rho: int = 20,
        calibration_batches: int = 8,
        seed: int = 0,
        **options: Any,
    ):
        super().__init__(enhancer, loss, **options)
        for key, value in {
            "scale_lr": scale_lr,
            "zero_point_lr": zero_point_lr,
            "input_peak": input_peak,
        }.items():
            if not 0 < value < float("inf"):
                raise UserError(f"training.{key}={value}: must be a number above 0")
        for key, value in {"rho": rho, "calibration_batches": calibration_batches}.items():
            if value < 1:
                raise UserError(f"training.{key}={value}: must be 1 or more")
        level = tuple(level)
        if len(level) != 2 or not -100 <= level[0] <= level[1] <= 0:
            raise UserError(f"training.level={list(level)}: must be two levels in dBFS, e.g. [-34,-14]")
        self.scale_lr = scale_lr
        self.zero_point_lr = zero_point_lr
        self.level = level
        self.input_peak = input_peak
        self.calibration_batches = calibration_batches
        self.seed = seed
        self.integers = {"bits": _BITS, "rho": rho}
        enhancer.require_causal()
        self.enhancer.requires_grad_(False).eval()
        self.network = new_network(enhancer.core, **self.integers)
        for ranges in (self.network.log_scale, self.network.zero):
            ranges["bands"].requires_grad_(False)
        self.register_buffer("calibrated", torch.tensor(False))
        # a tuple keeps its parts, shared with the others, from being registered twice
        self._simulation = (simulation(enhancer, self.network),)

    def train(self, mode: bool = True) -> QuantizationModule:
        super().train(mode)
        self.enhancer.eval()
        return self

    def check_trainer(self, trainer: pl.Trainer) -> None:
        if self.compile_mode:
            raise UserError(
                f"training.compile={self.compile_mode} with training=qat: integers are simulated to the bit, and a "
                "compiler rounds otherwise; leave it out"
            )
        super().check_trainer(trainer)

    def on_fit_start(self) -> None:
        """Calibrate. Raises UserError if the first batches are silent, or the precision is not float32."""
        if self.trainer.precision != "32-true":
            raise UserError(f"trainer.precision={self.trainer.precision}: integers are simulated in 32-true")
        if not self.calibrated:
            self.calibrate()
            # each device has calibrated on other batches
            self.load_state_dict(self.trainer.strategy.broadcast(self.state_dict()))

    @torch.no_grad()
    def calibrate(self) -> None:
        """Set the ranges by the first training batches, and normalise the parameters to about one."""
        self.trainer.fit_loop.setup_data()
        loader = self.trainer.train_dataloader
        # with a loader of its own, because persistent workers would not give these batches again
        first = islice(DataLoader(loader.dataset, batch_sampler=loader.batch_sampler), self.calibration_batches)
        waves = [batch["noisy"].to(self.device) for batch in first]
        if not any(noisy.any() for noisy in waves):
            raise UserError("the first training batches are silent: there is nothing to calibrate the integers by")
        # all at one level, because otherwise the loudest alone would set the ranges
        level = torch.tensor(sum(self.level) / 2, device=self.device)
        simulated = self._simulation[0]
        batches = [simulated.core.network_input(simulated.spectra(_at_level(noisy, level))) for noisy in waves]
        self.network.equalise(batches)
        self.network.calibrate(batches, self.input_peak)
        self.network.normalise(batches[0])
        self.calibrated.fill_(True)

    def at_random_levels(self, noisy: Tensor) -> Tensor:
        """Return (B, N), each crop at a random level that is a function of (seed, step, device)."""
        generator = torch.Generator().manual_seed(hash((self.seed, self.global_step, self.global_rank)) % 2**63)
        low, high = self.level
        return _at_level(noisy, low + (high - low) * torch.rand(len(noisy), 1, generator=generator).to(noisy))

    def training_step(self, batch: dict, batch_index: int) -> Tensor:
        """Return the loss of a batch at random levels. batch: noisy (B, N), name: B file names."""
        return super().training_step(batch | {"noisy": self.at_random_levels(batch["noisy"])}, batch_index)

    def estimate(self, noisy: Tensor) -> Signals:
        """Return the integers' output for (B, N)."""
        return Signals(*self._simulation[0].estimate(noisy), self.enhancer.spectra)

    def training_loss(self, estimate: Signals, batch: dict) -> tuple[Tensor, dict[str, Tensor]]:
        return self.loss(estimate, self.float_output(batch["noisy"]))

    @torch.no_grad()
    def float_output(self, noisy: Tensor) -> Signals:
        return Signals(*self.enhancer.estimate(noisy), self.enhancer.spectra)

    def validation_step(self, batch: dict, batch_index: int) -> Tensor:
        """Return the integers' waveform (B, N), for callbacks; log val/snr, its SNR to the float output in dB."""
        estimate, target = self.estimate(batch["noisy"]), self.float_output(batch["noisy"])
        values = {"val/loss": self.loss(estimate, target)[0], "val/snr": output_snr(estimate.wave, target.wave).mean()}
        self.log_dict(values, batch_size=len(batch["noisy"]), sync_dist=True)
        return estimate.wave

    def configure_optimizers(self) -> dict:
        network = self.network
        groups = [
            {"params": trainable(nn.ModuleList([network.weights, network.biases, network.slopes]))},
            {"params": trainable(network.log_scale), "lr": self.scale_lr},
            {"params": trainable(network.zero), "lr": self.zero_point_lr},
        ]
        return self.scheduled(self.optimizer(groups), self.trainer.estimated_stepping_batches)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        with torch.no_grad():
            for zero_point in self.network.zero.values():
                zero_point.clamp_(*_ZERO_POINTS)

    def on_train_batch_end(self, *args: Any) -> None:
        # a run that ends within an epoch is validated by Lightning only if it is told to stop
        self.trainer.should_stop |= self.trainer.global_step == self.trainer.max_steps

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint[RECORD][INTEGERS] = self.integers

    def trained(self, checkpoint: str | Path) -> Enhancer:
        """Return the simulated integers of a checkpoint, not the float model."""
        return load_simulation(checkpoint, trust=self.model_record["build"])


def _at_level(noisy: Tensor, level: Tensor) -> Tensor:
    """Return (B, N) scaled to this rms in dBFS, measured without the mean, or as loud as its peak allows."""
    rms, peak = noisy.std(1, correction=0, keepdim=True), noisy.abs().amax(1, keepdim=True)
    return noisy * torch.minimum(10 ** (level / 20) / rms.clamp(min=_QUIETEST), 1 / peak.clamp(min=_QUIETEST))
