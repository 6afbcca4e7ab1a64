"""Adversarial training: discriminators learn to tell the output of an enhancer from clean speech."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytorch_lightning as pl
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import parametrize
from torch.optim import AdamW, Optimizer

from gtcrn.errors import UserError
from gtcrn.losses import Signals
from gtcrn.losses.adversarial import feature_matching, least_squares
from gtcrn.models.discriminators import Judgement
from gtcrn.models.pretrained import read_checkpoint
from gtcrn.training.supervised import SupervisedModule, trainable

log = logging.getLogger(__name__)

_DISCRIMINATOR_PREFIX = "discriminator."  # begins the keys of its tensors in the module's state_dict


class AdversarialModule(SupervisedModule):
    """Adversarial training, which is supervised until `start_epoch`. From then on each batch first trains the
    discriminator on the generator's output, then the generator (the enhancer) on

        loss + adversarial_weight · least squares + feature_matching_weight · feature matching

    discriminator: (B, N) -> a list of `Judgement`s. discriminator_optimizer: makes the optimizer of its parameters; its
    learning rate follows a `scheduler` of its own from `start_epoch` to the end of the run.
    discriminator_from: checkpoint of an adversarial run whose discriminator this one starts from; None for a fresh one.
    options: those of `SupervisedModule`; gradient clipping applies to both sides.

    Raises `UserError` for impossible values, and if the discriminator would never train.
    """

    def __init__(
        self,
        *args,
        discriminator: nn.Module,
        discriminator_optimizer: Callable[..., Optimizer] = AdamW,
        discriminator_from: str | None = None,
        start_epoch: int = 15,
        adversarial_weight: float = 1.0,
        feature_matching_weight: float = 2.0,
        **options,
    ):
        super().__init__(*args, **options)
        if start_epoch < 0:
            raise UserError(f"training.start_epoch={start_epoch}: must be 0 or more")
        for name, weight in (
            ("adversarial_weight", adversarial_weight),
            ("feature_matching_weight", feature_matching_weight),
        ):
            if not 0 <= weight < float("inf"):
                raise UserError(f"training.{name}={weight}: must be a number of at least 0")
        self.automatic_optimization = False
        self.discriminator = discriminator
        self.discriminator_optimizer = discriminator_optimizer
        self.check_optimizer(discriminator_optimizer, "training.discriminator_optimizer")
        self.start_epoch = start_epoch
        self.adversarial_weight = adversarial_weight
        self.feature_matching_weight = feature_matching_weight
        if discriminator_from:
            self._load_discriminator(discriminator_from)

    @property
    def adversarial(self) -> bool:
        """Return whether the discriminator has begun to train."""
        return self.current_epoch >= self.start_epoch

    def training_step(self, batch: dict, batch_index: int) -> Tensor:
        """Train both sides and return the generator's loss. batch: noisy and clean (B, N), name: B file names."""
        estimate = self.estimate(batch["noisy"])
        values = self._train_discriminator(estimate.wave.detach(), batch) if self.adversarial else {}
        total, terms = self._train_generator(estimate, batch)
        # in one call: Lightning loses some of what several calls log on the first batch of an epoch
        self.log("train/loss", total, prog_bar=True)
        self.log_dict({f"train/{name}": value for name, value in (values | terms).items()})
        return total

    def training_loss(self, estimate: Signals, batch: dict) -> tuple[Tensor, dict[str, Tensor]]:
        total, terms = super().training_loss(estimate, batch)
        if not self.adversarial:
            return total, terms
        judged, real = self._judge(estimate.wave, batch["clean"])
        deception = least_squares([judgement.score for judgement in judged], 1)
        matching = feature_matching(
            [judgement.features for judgement in judged], [judgement.features for judgement in real]
        )
        total = total + self.adversarial_weight * deception + self.feature_matching_weight * matching
        return total, terms | {"adversarial": deception.detach(), "feature_matching": matching.detach()}

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        if optimizer is self.optimizers(use_pl_optimizer=False)[1]:
            self._discriminator_norm = self.gradient_norm(optimizer, "training.discriminator_optimizer.lr")
            self.clip(optimizer, self._discriminator_norm)
        else:
            super().on_before_optimizer_step(optimizer)

    def configure_callbacks(self) -> list[pl.Callback]:
        if self.trainer.accumulate_grad_batches != 1:  # only this hook runs before Lightning's own, vaguer error
            raise UserError(
                f"trainer.accumulate_grad_batches={self.trainer.accumulate_grad_batches}: adversarial training cannot "
                "accumulate gradients; raise data.batch_size instead"
            )
        return super().configure_callbacks()

    def on_train_start(self) -> None:
        # while one side trains the other gets no gradients, and plain DDP would wait for them
        model = self.trainer.model
        if isinstance(model, DistributedDataParallel) and not model.find_unused_parameters:
            raise UserError(
                "adversarial training on several devices needs trainer.strategy=ddp_find_unused_parameters_true"
            )

    def configure_optimizers(self) -> list[dict]:
        """Return the generator's optimizer and scheduler, and the discriminator's."""
        steps = self.trainer.estimated_stepping_batches
        self.trainer.fit_loop.setup_data()  # sets num_training_batches
        supervised_steps = self.start_epoch * self.trainer.num_training_batches
        if supervised_steps >= steps:
            raise UserError(
                f"training.start_epoch={self.start_epoch}: the run ends before, after {steps} steps of "
                f"{self.trainer.num_training_batches} an epoch, and the discriminator would never train; lower it"
            )
        generator = self.scheduled(self.optimizer(trainable(self.enhancer)), steps)
        generator["lr_scheduler"]["name"] = f"lr-{type(generator['optimizer']).__name__}"  # as in other runs
        critic = self.discriminator_optimizer(trainable(self.discriminator))
        discriminator = self.scheduled(critic, steps - supervised_steps)
        discriminator["lr_scheduler"]["name"] = "lr-discriminator"
        return [generator, discriminator]

    def _train_discriminator(self, estimate: Tensor, batch: dict) -> dict[str, Tensor]:
        """Train the discriminator on a batch and return the values to log, by name."""
        optimizer = self.optimizers(use_pl_optimizer=False)[1]
        judged, real = ([judgement.score for judgement in side] for side in self._judge(estimate, batch["clean"]))
        terms = {"discriminator_real": least_squares(real, 1), "discriminator_fake": least_squares(judged, 0)}
        total = sum(terms.values())
        self.check_loss(total, terms, batch)
        self.manual_backward(total)
        # through the strategy, because Lightning's own optimizer would count it as a step of the run
        self.trainer.strategy.optimizer_step(optimizer, closure=lambda: None)
        optimizer.zero_grad()
        self.lr_schedulers()[1].step()
        return terms | {"discriminator": total, "discriminator_gradient_norm": self._discriminator_norm}

    def _train_generator(self, estimate: Signals, batch: dict) -> tuple[Tensor, dict[str, Tensor]]:
        """Train the generator on a batch and return the loss, and its terms by name."""
        optimizer = self.optimizers()[0]
        with self.toggled_optimizer(optimizer):  # so that the discriminator's weights get no gradients
            total, terms = self.training_loss(estimate, batch)
            self.check_loss(total, terms, batch)
            self.manual_backward(total)
        optimizer.step()
        optimizer.zero_grad()
        self.lr_schedulers()[0].step()
        return total, terms

    def _judge(self, estimate: Tensor, clean: Tensor) -> tuple[list[Judgement], list[Judgement]]:
        """Return the judgements of both, by the same weights: spectral norm iterates once for the two."""
        with parametrize.cached():
            return self.discriminator(estimate), self.discriminator(clean)

    def _load_discriminator(self, path: str) -> None:
        content = read_checkpoint(path)
        # a run with a moving average keeps its own weights under another key
        state = content.get("current_model_state", content.get("state_dict", {}))
        stored = {
            key.removeprefix(_DISCRIMINATOR_PREFIX): value
            for key, value in state.items()
            if key.startswith(_DISCRIMINATOR_PREFIX)
        }
        if not stored:
            raise UserError(
                f"training.discriminator_from={path}: holds no discriminator; name a checkpoint of training=adversarial"
            )
        own = self.discriminator.state_dict()
        for key in sorted(own.keys() | stored.keys()):
            here, there = ("missing" if key not in state else tuple(state[key].shape) for state in (own, stored))
            if here != there:
                raise UserError(
                    f"training.discriminator_from={path}: {key} is {there} there and {here} here; "
                    "set training/discriminator= and its keys as in that run"
                )
        self.discriminator.load_state_dict(stored)
        log.info("discriminator: %d tensors loaded from %s", len(stored), path)
