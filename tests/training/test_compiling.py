"""A compiled core trains as the plain one does, is saved under the same keys, and is refused where it can't be."""

import logging
import shutil
from functools import partial
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from gtcrn.errors import UserError
from gtcrn.losses import SISDR, Loss
from gtcrn.models import dtln, micro
from gtcrn.tasks import train
from gtcrn.training.compiling import check_compiler
from gtcrn.training.distillation import DistillationModule, FeatureMatch
from gtcrn.training.freezing import Frozen
from gtcrn.training.qat import QuantizationModule
from gtcrn.training.schedulers import warmup_cosine
from gtcrn.training.supervised import SupervisedModule

pytestmark = pytest.mark.filterwarnings("ignore")
SMALL = partial(dtln.build, lstm_size=8, layers=1, basis_size=16, dropout=0)
LOSS = Loss({"sisdr": SISDR(1.0)})


@pytest.fixture
def graphs():
    """Return the list to which every compilation adds its graph, which PyTorch's own operators then compute."""
    found = []

    def backend(graph, inputs):
        found.append(graph)
        return graph.forward

    torch.compiler.reset()
    with torch.compiler.set_stance("default", force_backend=backend):
        yield found
    torch.compiler.reset()


def item(length):
    wave = 0.1 * torch.randn(2, length, generator=torch.Generator().manual_seed(length))
    return {"noisy": wave[0], "clean": wave[1], "name": str(length)}


def trained(build, compile, callbacks=(), **options):
    """Return what three steps of training and two validations leave."""
    torch.manual_seed(0)
    scheduler = partial(warmup_cosine, warmup_steps=1)
    module = SupervisedModule(build(), LOSS, scheduler=scheduler, compile=compile, **options)
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=1, val_check_interval=2, callbacks=[make(module) for make in callbacks],
        logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        num_sanity_val_steps=0,
    )  # fmt: skip
    module.check_trainer(trainer)
    trainer.fit(module, DataLoader([item(2048)] * 6, 2), DataLoader([item(length) for length in (2048, 3072, 4100)], 1))
    return trainer._checkpoint_connector.dump_checkpoint(), {k: v.item() for k, v in trainer.callback_metrics.items()}


def same(plain, compiled, tolerance):
    (plain, values), (compiled, compiled_values) = plain, compiled
    assert compiled_values == pytest.approx(values, rel=tolerance)
    for key in ("state_dict", "current_model_state"):
        assert compiled.get(key, {}).keys() == plain.get(key, {}).keys()
        for name, value in plain.get(key, {}).items():
            torch.testing.assert_close(compiled[key][name], value, rtol=tolerance, atol=tolerance)


def test_a_compiled_core_trains_as_the_plain_one(graphs):
    options = {"callbacks": [lambda module: Frozen(module.enhancer.core, ["encoder"])], "ema_decay": 0.9}
    plain = trained(SMALL, None, **options)
    assert not graphs
    compiled = trained(SMALL, "default", **options)
    assert "current_model_state" in plain[0]  # of the moving average, which holds a copy of the module
    same(plain, compiled, 1e-6)
    training = len(graphs)
    assert training  # … but validation, with a length for every file, compiled nothing:
    lengths = {value.shape[2] for graph in graphs for value in inputs_of(graph) if value.dim() == 4}
    assert lengths == {19}, "only the training's frames"


def inputs_of(graph):
    return [node.meta["example_value"] for node in graph.graph.nodes if node.op == "placeholder"]


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++") and not shutil.which("clang++"), reason="there is no C++ compiler here")
def test_generated_code_trains_as_the_operators():
    same(trained(SMALL, None), trained(SMALL, "default"), 1e-4)


def broken(graph, inputs):
    raise RuntimeError("no compiler\nand much more")


def compile_and_run(*args, **kwargs):
    torch.compile(torch.neg)(torch.ones(2))


def test_what_fails_to_compile_is_told_in_a_line(monkeypatch):
    trainer, module = pl.Trainer(accelerator="cpu", logger=False), SupervisedModule(micro.build(), LOSS)
    monkeypatch.setattr(trainer, "fit", compile_and_run)
    torch.compiler.reset()
    with torch.compiler.set_stance("default", force_backend=broken):
        with pytest.raises(UserError, match="nothing can be compiled for cpu .*RuntimeError: no compiler") as before:
            check_compiler("default", torch.device("cpu"))
        with pytest.raises(UserError, match="this model can't be compiled .*RuntimeError: no compiler") as during:
            train.fit(trainer, module, None, None, Path("last.ckpt"))
    torch.compiler.reset()
    assert "\n" not in f"{before.value}{during.value}"


def test_what_cannot_be_compiled_is_told(graphs, tmp_path, caplog):
    caplog.set_level(logging.INFO, "gtcrn")
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, accumulate_grad_batches=2)
    module = SupervisedModule(micro.build(), LOSS, compile="reduce-overhead")
    with pytest.raises(UserError, match="CUDA graphs overwrite the gradients that are to accumulate"):
        module.check_trainer(trainer)
    SupervisedModule(micro.build(), LOSS, compile="default").check_trainer(trainer)
    assert "CUDA graphs need a GPU" not in caplog.text
    check_compiler("reduce-overhead", torch.device("cpu"))
    assert "CUDA graphs need a GPU; on cpu it is the same as default" in caplog.text
    with pytest.raises(UserError, match="training.compile=default with training=qat: integers are simulated"):
        QuantizationModule(micro.build(), LOSS, compile="default").check_trainer(trainer)
    teacher = {"gtcrn": {"model": {"build": "gtcrn.models.micro.build", "knobs": {}}}}
    state = {f"enhancer.{name}": value for name, value in micro.build().state_dict().items()}
    torch.save(teacher | {"state_dict": state}, tmp_path / "teacher.ckpt")
    match = FeatureMatch("encoder", "encoder")
    for features, told in (({"encoder": match}, "compiled code does not tell what its layers give"), ({}, None)):
        module = DistillationModule(
            micro.build(), LOSS, str(tmp_path / "teacher.ckpt"), features=features, compile="default"
        )
        if told:
            with pytest.raises(UserError, match=told):
                module.check_trainer(trainer)
        else:
            module.check_trainer(trainer)
