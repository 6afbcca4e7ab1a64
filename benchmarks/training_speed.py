"""How many times faster than PyTorch's operators the kernels train: python benchmarks/training_speed.py [--rounds 5]

Both take steps of training in turn in one process, on one thread, so that other programs slow both alike. Printed are
the CPU times of a step of batch 8 × 4 s with GTCRN's published loss, the fastest of the rounds, and their ratio, the
median over the rounds with the smallest and the largest.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable
from statistics import median

import torch
from torch import nn

from gtcrn import kernels
from gtcrn.losses import SISDR, CompressedComplex, CompressedMagnitude, Loss, Signals
from gtcrn.models import gtcrn, light_v3, micro

MODELS = {"GTCRN": gtcrn.build, "GTCRN-Light v3": light_v3.build, "GTCRN-Micro": micro.build}
TERMS = {"complex": CompressedComplex(30, 0.3, 512, 256), "magnitude": CompressedMagnitude(70, 0.3, 512, 256)}
LOSS = Loss(TERMS | {"sisdr": SISDR(0.1)})


def training_step(model: nn.Module, choice: str, noisy: torch.Tensor, clean: torch.Tensor) -> Callable[[], float]:
    """Return a function that takes a step of training and returns the CPU time it took, in seconds."""
    optimizer = torch.optim.AdamW(model.parameters())

    def step() -> float:
        begin = time.thread_time()
        with kernels.use(choice):
            total, _ = LOSS(Signals(*model.estimate(noisy)), Signals(clean, model.spectra(clean)))
            optimizer.zero_grad()
            total.backward()
            optimizer.step()
        return time.thread_time() - begin

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=4.0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    torch.manual_seed(0)
    noisy, clean = 0.1 * torch.randn(2, options.batch, int(16000 * options.seconds))
    for name, build in MODELS.items():
        model = build().train()
        steps = [training_step(copy.deepcopy(model), choice, noisy, clean) for choice in ("torch", "auto")]
        for step in steps:  # the first one compiles
            step()
        times = [[step() for step in steps] for _ in range(options.rounds)]
        plain, ours = (1e3 * min(column) for column in zip(*times))
        ratios = sorted(plain / ours for plain, ours in times)
        spread = f"{median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        print(f"{name}: PyTorch {plain:.0f} ms, kernels {ours:.0f} ms, ratio {spread}", flush=True)


if __name__ == "__main__":
    main()
