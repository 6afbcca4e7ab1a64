"""A run that stops anywhere and goes on ends with the very weights of one that never stopped."""

import pytest
import pytorch_lightning as pl
import torch

from gtcrn.losses import CompressedMagnitude, Loss
from gtcrn.models import light_v3
from gtcrn.training.data import SpeechDataModule
from gtcrn.training.masks import SpectrumMasks
from gtcrn.training.supervised import SupervisedModule


class Stop(Exception):
    pass


class Journal(pl.callbacks.Checkpoint):
    """Writes down what each step was trained on; after `stop_after` steps saves, as the last callback, and stops."""

    def __init__(self, stop_after=None, folder=None):
        self.stop_after, self.folder = stop_after, folder
        self.seen = []

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_index):
        self.seen.append((trainer.current_epoch, *batch["name"], float(batch["noisy"].sum())))
        if trainer.global_step == self.stop_after:
            trainer.save_checkpoint(self.folder / "stopped.ckpt")
            raise Stop


def run(data, callbacks, ckpt_path=None, ema_decay=None):
    torch.manual_seed(0)
    module = SupervisedModule(
        light_v3.build(width_mult=0.5, use_two_dpgrnn=False),
        Loss({"magnitude": CompressedMagnitude(70, 0.3, 512, 256)}),
        warmup_steps=2,
        ema_decay=ema_decay,
        masks=SpectrumMasks(seed=3),
    )
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=3,
        callbacks=callbacks,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )
    trainer.fit(module, datamodule=SpeechDataModule(data), ckpt_path=ckpt_path, weights_only=True)
    return module, trainer


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("stop_after", [3, 4, 5, 8], ids="after step {}".format)
@pytest.mark.parametrize("ema_decay", [None, 0.9], ids=["weights", "ema"])
def test_resumed_run_equals_uninterrupted_one(mini_data, tmp_path, stop_after, ema_decay):
    """Five files in batches of two: epochs of three steps, stopped within an epoch and at its end."""
    whole = Journal()
    expected, trainer = run(mini_data(), [whole], ema_decay=ema_decay)
    assert trainer.global_step == 9

    first = Journal(stop_after, tmp_path)
    with pytest.raises(Stop):
        run(mini_data(), [first], ema_decay=ema_decay)
    second = Journal()
    resumed, trainer = run(mini_data(), [second], str(tmp_path / "stopped.ckpt"), ema_decay=ema_decay)

    assert first.seen + second.seen == whole.seen
    assert trainer.global_step == 9
    for (name, a), b in zip(expected.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
