"""Learning-rate schedulers, each made for an optimizer and stepped after each of its steps."""

from __future__ import annotations

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from gtcrn.errors import UserError


def warmup_cosine(
    optimizer: Optimizer, total_steps: float, warmup_steps: int = 100, final_lr: float = 1e-5
) -> LambdaLR:
    """Return a linear warm-up over `warmup_steps`, then half a cosine down to `final_lr` at `total_steps`.

    Groups of parameters with learning rates of their own fall by the same factor as the optimizer's.
    Raises UserError for impossible values.
    """
    _check_warmup(warmup_steps)
    if final_lr < 0:
        raise UserError(f"scheduler.final_lr={final_lr}: must be 0 or more")
    floor = final_lr / optimizer.defaults["lr"]

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
        return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))

    return LambdaLR(optimizer, factor)


def warmup_constant(optimizer: Optimizer, warmup_steps: int = 100) -> LambdaLR:
    """Return a linear warm-up over `warmup_steps` that stays at the optimizer's learning rate.

    Raises UserError for impossible values.
    """
    _check_warmup(warmup_steps)
    return LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / max(1, warmup_steps)))


def _check_warmup(steps: int) -> None:
    if steps < 0:
        raise UserError(f"scheduler.warmup_steps={steps}: must be 0 or more")
