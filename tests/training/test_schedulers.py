"""Learning rates over a run, and which schedulers get its length."""

from functools import partial
from math import inf, pi

import pytest
import torch
from torch.optim import SGD, Adam, AdamW
from torch.optim.lr_scheduler import OneCycleLR, StepLR

from gtcrn.errors import UserError
from gtcrn.losses import SISDR, Loss
from gtcrn.models import light_v3
from gtcrn.training.schedulers import warmup_constant, warmup_cosine
from gtcrn.training.supervised import SupervisedModule


def rates(scheduler, steps):
    """Return the learning rates of the first steps, of every group."""
    rates = []
    for _ in range(steps):
        rates.append(scheduler.get_last_lr())
        scheduler.optimizer.step()
        scheduler.step()
    return rates


def weights(count=1):
    return [torch.nn.Parameter(torch.ones(1)) for _ in range(count)]


def test_warmup_and_cosine():
    first, second = weights(2)
    optimizer = SGD([{"params": [first]}, {"params": [second], "lr": 4.0}], lr=2.0)
    both = rates(warmup_cosine(optimizer, total_steps=12, warmup_steps=4, final_lr=0.2), 15)
    expected = [0.5, 1.0, 1.5, 2.0]  # then from 2 down to 0.2
    expected += [0.2 + 1.8 * 0.5 * (1 + torch.cos(torch.tensor(pi * step / 8)).item()) for step in range(9)] + [0.2] * 2
    assert [rate for rate, _ in both] == pytest.approx(expected)
    assert [rate for _, rate in both] == pytest.approx([2 * rate for rate in expected])


@pytest.mark.parametrize(("warmup", "expected"), [(4, [0.5, 1.0, 1.5, 2.0, 2.0, 2.0]), (0, [2.0] * 6)])
def test_warmup_and_no_end(warmup, expected):
    scheduler = warmup_constant(SGD(weights(), lr=2.0), warmup_steps=warmup)
    assert [rate for (rate,) in rates(scheduler, 6)] == pytest.approx(expected)


def module(scheduler):
    return SupervisedModule(light_v3.build(width_mult=0.5), Loss({"sisdr": SISDR(1)}), scheduler=scheduler)


def test_who_asks_is_told_how_long_the_run_is():
    optimizer = AdamW(weights(), lr=1e-3)
    cycle = module(partial(OneCycleLR, max_lr=1e-3)).scheduled(optimizer, steps=50)["lr_scheduler"]["scheduler"]
    assert cycle.total_steps == 50
    own = module(partial(OneCycleLR, max_lr=1e-3, total_steps=20)).scheduled(optimizer, steps=50)
    assert own["lr_scheduler"]["scheduler"].total_steps == 20
    for scheduler in (partial(StepLR, step_size=5), warmup_constant):
        module(scheduler).scheduled(optimizer, steps=inf)
    with pytest.raises(UserError, match="the length of the run is unknown: set trainer.max_epochs or trainer.max_"):
        module(warmup_cosine).scheduled(optimizer, steps=inf)


def test_adam_is_adamw_without_decay():
    """Published recipes name Adam; results here that name Adam were found with AdamW without decay."""
    ends = []
    for make in (partial(Adam, weight_decay=0.0), partial(AdamW, weight_decay=0.0)):
        weight = torch.nn.Parameter(torch.linspace(-1, 1, 7))
        optimizer = make([weight], lr=1e-2)
        for step in range(20):
            optimizer.zero_grad()
            (weight**2 * (step + 1)).sum().backward()
            optimizer.step()
        ends.append(weight.detach())
    assert torch.equal(*ends)
