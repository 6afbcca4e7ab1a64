"""How fast a GPU trains, and where the time goes: python benchmarks/gpu_training.py [--output gpu_training.csv]

GTCRN and Light v3 take the same steps on the same batches of 64 × 4 s with GTCRN's published loss: in exact float32,
with TF32, and in bf16-mixed, compiled or not. Every form takes the steps twice. The first time the device is waited for
after each part of a step, which gives the times of data, forward pass, backward pass and optimizer, and the losses; the
second time it is not, which gives the crops per second. The table is printed in Markdown and written as CSV. A form
that would begin after --minutes is left out, which is told, so that all is over in 8 minutes.

A try on a CPU: python benchmarks/gpu_training.py --device cpu --batch 2 --seconds 0.5 --steps 2 --forms 'float32; bf16'
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import joblib
import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from gtcrn.losses import SISDR, CompressedComplex, CompressedMagnitude, Loss, Signals
from gtcrn.models import gtcrn, light_v3
from gtcrn.training.compiling import reason_of

MODELS = {"GTCRN": gtcrn.build, "GTCRN-Light v3": light_v3.build}
TERMS = {"complex": CompressedComplex(30, 0.3, 512, 256), "magnitude": CompressedMagnitude(70, 0.3, 512, 256)}
LOSS = Loss(TERMS | {"sisdr": SISDR(0.1)})
RATE = 16000  # Hz
WARM_UP = 3  # steps whose times do not count: kernels are chosen, code is compiled, CUDA graphs are recorded
PARTS = ("data", "forward", "backward", "optimizer")


class Form(NamedTuple):
    """A way to compute: whether in bfloat16 or TF32 where that is allowed, and the mode of torch.compile."""

    half: bool = False
    tf32: bool = True
    compile: str | None = None


FORMS = {
    "float32": Form(tf32=False),
    "TF32": Form(),
    "bf16": Form(half=True),
    "TF32, compiled": Form(compile="default"),
    "bf16, compiled": Form(half=True, compile="default"),
    "bf16, CUDA graphs": Form(half=True, compile="reduce-overhead"),
}


class Crops(Dataset):
    """Pairs (2, N) of made-up noisy and clean signals, each a function of its index."""

    def __init__(self, count: int, samples: int):
        self.count, self.samples = count, samples
        self.signal = 0.1 * torch.randn(samples + 60 * RATE, generator=torch.Generator().manual_seed(0))

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Tensor:
        clean, noise = (self.signal[start:][: self.samples] for start in (7919 * index % 480000, 6101 * index % 479001))
        return torch.stack([clean + 0.3 * noise, clean])


class Training:
    """The steps of one model in one form."""

    def __init__(self, model: nn.Module, form: Form, device: torch.device):
        self.model, self.half, self.device = model.to(device).train(), form.half, device
        if form.compile:
            self.model.core.compile(mode=form.compile, dynamic=False)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), fused=True)

    def run(self, loader: DataLoader, wait: bool) -> tuple[pd.DataFrame, list[float], float]:
        """Train on all batches; return the seconds of every step's parts, the losses, and the seconds of settled steps.

        wait: for the device after every part, without which there are no times of parts.
        """
        stamps: list[float] = []
        stamp = (lambda: stamps.append(self.now())) if wait else (lambda: None)
        losses, batches, begun = [], iter(loader), 0.0
        for step in range(len(loader)):
            if step == settled(loader):
                begun = self.now()
            losses.append(self.step(batches, stamp))
        seconds = self.now() - begun
        times = np.diff(np.reshape(stamps, (-1, len(PARTS) + 1)))
        return pd.DataFrame(times, columns=PARTS), torch.stack(losses).tolist(), seconds

    def step(self, batches: Iterator[Tensor], stamp: Callable[[], None]) -> Tensor:
        """Take a step, and call `stamp` before it and after each of its parts. Return the loss."""
        stamp()
        noisy, clean = next(batches).to(self.device, non_blocking=True).unbind(1)
        stamp()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
            estimate = Signals(*self.model.estimate(noisy))
            total, _ = LOSS(estimate, Signals(clean, self.model.spectra(clean)))
        stamp()
        self.optimizer.zero_grad()
        total.backward()
        stamp()
        self.optimizer.step()
        stamp()
        return total.detach().clone()

    def now(self) -> float:
        """Return the time in seconds when the device has done all that it was asked to do."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def settled(loader: DataLoader) -> int:
    """Return the step from which on times count."""
    return min(WARM_UP, len(loader) - 1)


def measure(model: nn.Module, form: Form, device: torch.device, loader: DataLoader) -> tuple[dict, list[float]]:
    """Return the figures of one model in one form, by column, and its losses."""
    torch.compiler.reset()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = form.tf32
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    training = Training(model, form, device)
    times, losses, _ = training.run(loader, wait=True)
    _, _, seconds = training.run(loader, wait=False)
    crops = (len(loader) - settled(loader)) * loader.batch_size / seconds
    figures = {"crops/s": crops, "s of audio/s": crops * loader.dataset.samples / RATE}
    figures |= {f"{part}, ms": 1e3 * times[part][settled(loader) :].median() for part in PARTS}
    figures["first step, s"] = times.iloc[0].sum()
    if device.type == "cuda":
        figures["memory, GB"] = torch.cuda.max_memory_allocated(device) / 1e9
    return figures, losses


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--minutes", type=float, default=6.0, help="no form begins later")
    parser.add_argument("--forms", default="; ".join(FORMS))
    parser.add_argument("--output", default="gpu_training.csv")
    options = parser.parse_args()
    begun = time.monotonic()
    device = torch.device(options.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(f"{name}, PyTorch {torch.__version__}, {options.steps} steps of {options.batch} × {options.seconds:g} s\n")
    loader = DataLoader(
        Crops(options.steps * options.batch, int(RATE * options.seconds)), options.batch,
        num_workers=min(8, joblib.cpu_count() - 1) if device.type == "cuda" else 0, pin_memory=device.type == "cuda",
    )  # fmt: skip
    chosen = [form.strip() for form in options.forms.split(";")]
    rows, exact, left_out = [], {}, []
    for form in chosen:
        for system, build in MODELS.items():
            if time.monotonic() - begun > 60 * options.minutes:
                left_out.append(f"{system}, {form}: {options.minutes:g} minutes are over")
                continue
            torch.manual_seed(0)
            try:
                figures, losses = measure(build(), FORMS[form], device, loader)
            except Exception as error:  # a machine without a compiler still measures the rest
                left_out.append(f"{system}, {form}: {reason_of(error)}")
                continue
            first = exact.setdefault(system, losses)
            worst = max(abs(loss - other) / abs(other) for loss, other in zip(losses, first))
            rows.append({"model": system, "form": form} | figures | {f"loss against {chosen[0]}": worst})
            pd.DataFrame(rows).to_csv(options.output, index=False, float_format="%.4g")
            print(*markdown(rows)[-1 if len(rows) > 1 else 0 :], sep="\n", flush=True)
    print(*(f"\nleft out: {line}" for line in left_out))


def markdown(rows: list[dict]) -> list[str]:
    """Return the lines of a table in Markdown."""
    columns = list(rows[0])
    lines = [columns, ["---"] * 2 + ["--:"] * (len(columns) - 2)]
    lines += [[value if isinstance(value, str) else f"{value:.3g}" for value in row.values()] for row in rows]
    return [f"| {' | '.join(line)} |" for line in lines]


if __name__ == "__main__":
    main()
