"""Supervised training: errors that stop a run, and the content of its checkpoints."""

from functools import partial
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from torch.optim import AdamW
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import DataLoader

import gtcrn
from gtcrn.errors import UserError
from gtcrn.losses import CompressedMagnitude, Loss
from gtcrn.models import light_v3
from gtcrn.training.masks import SpectrumMasks
from gtcrn.training.schedulers import warmup_cosine
from gtcrn.training.supervised import SupervisedModule


def fit(module, wave, **kwargs):
    items = [{"noisy": wave, "clean": wave, "name": f"file_{i}"} for i in range(2)]
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, **kwargs,
    )  # fmt: skip
    trainer.fit(module, DataLoader(items, 2))
    return trainer


def make_module(**kwargs):
    torch.manual_seed(0)
    loss = Loss({"magnitude": CompressedMagnitude(70, 0.3, 512, 256)})
    return SupervisedModule(light_v3.build(width_mult=0.5), loss, **kwargs)


@pytest.mark.filterwarnings("ignore")
def test_nan_loss_names_the_files():
    wave = torch.zeros(4096)
    wave[100] = float("nan")
    with pytest.raises(UserError, match="loss is nan at step 0 .*batch: file_0, file_1"):
        fit(make_module(), wave)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_checkpoint_is_an_enhancer(tmp_path, precision):
    knobs = {"width_mult": 0.5, "padding": "reflect"}
    module = make_module(model_record={"build": "gtcrn.models.light_v3.build", "knobs": knobs})
    module.input_level = -27.5
    wave = torch.randn(4096) * 0.1
    trainer = fit(module, wave, precision=precision)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    enhancer = gtcrn.load(tmp_path / "a.ckpt")
    assert (enhancer.padding, enhancer.input_level) == ("reflect", -27.5)
    assert gtcrn.load(tmp_path / "a.ckpt", padding="zeros").padding == "zeros"
    module.enhancer.padding = "reflect"
    assert torch.equal(enhancer(wave[None])[0], module.eval().enhancer(wave[None])[0])


def test_impossible_settings_are_named():
    for options, told in (
        ({"ema_decay": 2}, "training.ema_decay=2"),
        ({"optimizer": partial(AdamW, lr=0)}, "optimizer.lr=0: must be above 0"),
        ({"optimizer": partial(AdamW, betas=(0.9, 1.5))}, "optimizer or scheduler: Invalid beta parameter"),
        ({"scheduler": partial(warmup_cosine, warmup_steps=-1)}, "scheduler.warmup_steps=-1"),
        ({"scheduler": partial(warmup_cosine, final_lr=-1)}, "scheduler.final_lr=-1"),
        ({"scheduler": partial(OneCycleLR)}, "optimizer or scheduler: .*max_lr"),
    ):
        with pytest.raises(UserError, match=told) as error:
            make_module(**options)
        assert "\n" not in str(error.value)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_gradients_are_limited_beside_a_fused_optimizer_too(precision):
    for limit in (None, 1e-3):
        module = make_module(optimizer=partial(AdamW, fused=True), gradient_clip_norm=limit)
        trainer = fit(module, 0.1 * torch.randn(4096), precision=precision)
        left = torch.nn.utils.get_total_norm([p.grad for p in module.parameters() if p.grad is not None]).item()
        measured = trainer.callback_metrics["train/gradient_norm"].item()
        assert measured > 0.1 and left == pytest.approx(limit or measured, rel=1e-3)


def test_settings_of_the_trainer_that_do_not_fit_are_told():
    module = make_module(optimizer=partial(AdamW, fused=True))
    for settings, told in (
        ({"precision": "16-mixed", "gradient_clip_val": None}, "set optimizer.fused=false"),
        ({"precision": "32-true", "gradient_clip_val": 1.0}, "training.gradient_clip_norm limits"),
    ):
        with pytest.raises(UserError, match=told):
            module.check_trainer(SimpleNamespace(**settings))
    make_module().check_trainer(SimpleNamespace(precision="16-mixed", gradient_clip_val=None))


def test_checkpoint_cannot_choose_what_is_imported(tmp_path):
    torch.save({"gtcrn": {"model": {"build": "os.system", "knobs": {"command": "true"}}}}, tmp_path / "evil.ckpt")
    with pytest.raises(UserError, match="asks for os.system, code outside this framework"):
        gtcrn.load(tmp_path / "evil.ckpt")


def test_masks_are_a_function_of_seed_and_step():
    spec = torch.ones(4, 2, 60, 257)
    first = SpectrumMasks(seed=1)(spec, step=5)
    assert torch.equal(first, SpectrumMasks(seed=1)(spec, step=5))
    assert not torch.equal(first, SpectrumMasks(seed=1)(spec, step=6))
    assert not torch.equal(first, SpectrumMasks(seed=2)(spec, step=5))
    dropped = (first == 0).float().mean(dim=(1, 2, 3))
    assert (dropped > 0).all() and (dropped < 0.3).all()
