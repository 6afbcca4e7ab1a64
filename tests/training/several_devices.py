"""A run in one process and another on two nodes, each a process of its own; test_several_devices.py compares them.

python several_devices.py ROOT FOLDER PORT
"""

import json
import multiprocessing
import os
import sys
from functools import partial
from pathlib import Path

import pytorch_lightning as pl
import torch

from gtcrn.data.speech import vctk_demand
from gtcrn.losses import SISDR, CompressedMagnitude, Loss
from gtcrn.models import light_v3
from gtcrn.training.callbacks import ValidationScores
from gtcrn.training.datamodule import SpeechDataModule
from gtcrn.training.schedulers import warmup_cosine
from gtcrn.training.supervised import SupervisedModule


class Journal(pl.Callback):
    """A callback that records the items and gradients of every step, and keeps BatchNorm's statistics fixed.

    It silences the second validation clip, so that this has no score.
    """

    def __init__(self):
        self.items, self.gradients = [], []

    def on_train_epoch_start(self, trainer, module):
        for layer in module.modules():
            if isinstance(layer, torch.nn.BatchNorm2d):
                layer.eval()

    def on_train_batch_start(self, trainer, module, batch, batch_index):
        self.items.append((trainer.current_epoch, list(batch["name"])))

    def on_validation_batch_end(self, trainer, module, outputs, batch, batch_index):
        if batch_index == 1:
            outputs.zero_()

    def on_before_optimizer_step(self, trainer, module, optimizer):
        self.gradients.append({name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None})


def train(root: str, folder: Path, port: str, nodes: int, rank: int) -> None:
    """Train in the role of a node; gloo joins the nodes on loopback."""
    if nodes > 1:
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "NODE_RANK": str(rank), "LOCAL_RANK": "0"}
    torch.set_num_threads(1)
    torch.manual_seed(0)
    data = vctk_demand(
        root, ["28spk"], [], ["p287_005", "p287_006"], "validation", None, sample_rate=16000, segment_seconds=1.0,
        batch_size=4 // nodes, num_workers=0, seed=7, cache_dir=folder / "cache",
    )  # fmt: skip
    data.setup(("train", "validation"))
    loss = Loss({"sisdr": SISDR(0.5), "magnitude": CompressedMagnitude(70, 0.3, 512, 256)})
    module = SupervisedModule(light_v3.build(width_mult=0.5), loss, scheduler=partial(warmup_cosine, warmup_steps=2))
    journal = Journal()
    trainer = pl.Trainer(
        accelerator="cpu", devices=1, num_nodes=nodes, strategy="ddp" if nodes > 1 else "auto", max_epochs=10,
        check_val_every_n_epoch=5, callbacks=[journal, ValidationScores(["si_sdr"], files=2, workers=1)], logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )  # fmt: skip
    trainer.fit(module, datamodule=SpeechDataModule(data))
    output = folder / f"{nodes}_{rank}"
    torch.save({"weights": module.state_dict(), "gradients": journal.gradients}, f"{output}.pt")
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val/")}
    told = {"items": journal.items, "metrics": metrics, "steps": trainer.global_step, "rank": trainer.global_rank}
    Path(f"{output}.json").write_text(json.dumps(told))


def main(root: str, folder: str, port: str) -> None:
    fork = multiprocessing.get_context("fork")  # PyTorch is imported once for all of them
    for nodes in (1, 2):
        processes = [fork.Process(target=train, args=(root, Path(folder), port, nodes, rank)) for rank in range(nodes)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        if any(process.exitcode for process in processes):
            sys.exit(1)


if __name__ == "__main__":
    main(*sys.argv[1:])
