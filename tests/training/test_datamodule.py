"""Killed or hanging loader workers end a training with one line; a killed run resumes exactly."""

import multiprocessing
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import get_worker_info

from gtcrn.errors import UserError
from gtcrn.losses import CompressedMagnitude, Loss
from gtcrn.models import light_v3
from gtcrn.tasks import train
from gtcrn.training.datamodule import SpeechDataModule
from gtcrn.training.supervised import SupervisedModule

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_batches_are_pinned_for_a_gpu_alone(mini_data, kind):
    module, strategy = SpeechDataModule(mini_data()), SimpleNamespace(root_device=torch.device(kind))
    module.trainer = SimpleNamespace(global_rank=0, world_size=1, strategy=strategy)
    assert module.train_dataloader().pin_memory == (kind == "cuda")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("number", "told"),
    [
        (signal.SIGKILL, "(is killed by signal: Killed|exited unexpectedly); where"),
        (signal.SIGSTOP, r"timed out after 1\.0 seconds; where"),
    ],
    ids=["killed", "stopped"],
)
@pytest.mark.slow
def test_a_loader_process_that_ends_or_hangs_ends_the_run_in_a_line(mini_data, tmp_path, monkeypatch, number, told):
    data = mini_data(num_workers=1, worker_timeout=1.0)
    items = type(data.dataset("train"))
    healthy = items.__getitem__

    def harmed(self, key):
        if get_worker_info() and key[0] == 1:  # in the second epoch
            os.kill(os.getpid(), number)
        return healthy(self, key)

    monkeypatch.setattr(items, "__getitem__", harmed)
    loss = Loss({"magnitude": CompressedMagnitude(70, 0.3, 512, 256)})
    module = SupervisedModule(light_v3.build(width_mult=0.5, use_two_dpgrnn=False), loss)
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=2, logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, limit_val_batches=0, use_distributed_sampler=False,
    )  # fmt: skip
    last = tmp_path / "last.ckpt"
    last.write_text("")
    with pytest.raises(UserError) as error:
        train.fit(trainer, module, SpeechDataModule(data), None, last)
    assert trainer.global_step == 3 and "\n" not in str(error.value)
    assert re.search(told, str(error.value)) and str(error.value).endswith(f"go on with resume={last}")
    loaders = [process for process in multiprocessing.active_children() if process.daemon]  # others score elsewhere
    for process in loaders:
        process.join(10)
        assert not process.is_alive()


@pytest.mark.slow
def test_killed_trainings_end_as_undisturbed_ones():
    """This is a short form of the benchmark: two kills of a training that counts in steps and calibrates first."""
    scenario = "kind='qat', workers=2, schedule='short'"
    command = [sys.executable, ROOT / "benchmarks/kills.py", "--kills", "2", "--only", scenario]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert "2 kills, 0 of 1 trainings differ from undisturbed ones." in done.stdout, done.stdout + done.stderr
