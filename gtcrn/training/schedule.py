"""Learning rates over a run."""

from __future__ import annotations

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from gtcrn.errors import UserError


def warmup_cosine(optimizer: Optimizer, warmup_steps: int, last_step: float, floor: float) -> LambdaLR:
    """Linear warm-up over `warmup_steps`, then half a cosine down to `floor` times the optimiser's rate at `last_step`.

    Raises UserError if `last_step` is infinite.
    """
    if last_step == math.inf:
        raise UserError("the length of the run is unknown: set trainer.max_epochs or trainer.max_steps")

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        progress = min(1.0, (step - warmup_steps) / max(1, last_step - warmup_steps))
        return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))

    return LambdaLR(optimizer, factor)
