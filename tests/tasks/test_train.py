"""What a run begins with and goes on from, told before anything is spent on it."""

import logging
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from gtcrn.errors import UserError
from gtcrn.models import gtcrn, light_v3
from gtcrn.models.pretrained import open_checkpoint, to_official
from gtcrn.tasks import train
from gtcrn.tasks.building import build, model_record

CONF = Path(__file__).parents[2] / "conf"


def composed(*overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", ["task=train", *overrides])


def module_of(cfg):
    return build(cfg.training, enhancer=build(cfg.model), loss=build(cfg.loss), model_record=model_record(cfg))


@pytest.fixture
def published(tmp_path):
    """A published Light v3, with one dual-path block and not causal."""
    torch.save({"model": to_official(light_v3.build(use_two_dpgrnn=False, causal=False))}, tmp_path / "light.tar")
    return tmp_path / "light.tar"


@pytest.fixture
def earlier(tmp_path):
    """Leaves what a stopped run of these overrides leaves, and gives its last checkpoint."""

    def leave(*overrides):
        cfg = composed(*overrides)
        module, run = module_of(cfg), tmp_path / "outputs" / "earlier"
        checkpoint = {"state_dict": module.state_dict()}
        module.on_save_checkpoint(checkpoint)
        for folder in (".hydra", "checkpoints"):
            (run / folder).mkdir(parents=True, exist_ok=True)
        OmegaConf.save(cfg, run / ".hydra" / "config.yaml")
        torch.save(checkpoint, run / "checkpoints" / "last.ckpt")
        return run / "checkpoints" / "last.ckpt"

    return leave


def refusal(function, *arguments):
    with pytest.raises(UserError) as error:
        function(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_run_begins_from_a_checkpoint_and_says_how(published, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    cfg = composed(f"init_from={published}")
    enhancer = build(cfg.model)
    train.begin_from(cfg, enhancer, tmp_path / "run")
    weights = open_checkpoint(published).weights
    assert all(torch.equal(enhancer.core.state_dict()[key], value) for key, value in weights.items())
    lines = [record.getMessage() for record in caplog.records]
    assert f"{published} (GTCRN-Light v3): 126 tensors loaded, 5,540 of the model's 7,640 parameters" in lines
    assert "  the file's model is not causal (offline: it looks 22 frames ahead), this one is" in lines
    assert "  model.use_two_dpgrnn=True here, False in the file" in lines
    assert "  left at their random start, not in the file (tensors): dual_path.1 (19)" in lines
    assert "- dual_path.1 (19)" in (tmp_path / "run" / "initial_weights.md").read_text()


def test_what_a_run_cannot_begin_from_is_named(published, tmp_path):
    cfg = composed("init_from=nowhere.tar")
    assert refusal(train.begin_from, cfg, build(cfg.model), tmp_path) == "init_from=nowhere.tar: no such file"
    cfg = composed("model=gtcrn", f"init_from={published}")
    told = refusal(train.begin_from, cfg, build(cfg.model), tmp_path)
    assert told.startswith(f"init_from={published}: holds LightV3, but the model is GTCRN")
    assert not (tmp_path / "initial_weights.md").exists()


def test_init_from_and_resume_exclude_one_another():
    told = refusal(train.check_beginning, composed("init_from=a.ckpt", "resume=b/checkpoints/last.ckpt"))
    assert "resume goes on with a run, init_from begins one; leave one of them out" in told
    train.check_beginning(composed("init_from=a.ckpt", "resume=auto"))


def test_freeze_is_a_list_and_counted(caplog):
    assert "expected a list of names, e.g. freeze=[encoder]" in refusal(
        train.check_beginning, composed("freeze=encoder")
    )
    caplog.set_level(logging.INFO)
    enhancer = gtcrn.build()
    total = train.trained_parameters(enhancer)
    assert train.freeze(enhancer, []) == []
    train.freeze(enhancer, ["encoder", "dual_path.0"])
    left = train.trained_parameters(enhancer)
    frozen = [enhancer.core.encoder, enhancer.core.dual_path[0]]
    assert total - left == sum(p.numel() for part in frozen for p in part.parameters())
    assert caplog.messages == [f"freeze=[encoder,dual_path.0]: {left:,} parameters train, {total - left:,} are frozen"]


def test_resume_takes_the_same_way_to_train(earlier, published):
    distilled = ("training=distillation", f"training.teacher={published}")
    last = earlier("freeze=[encoder]")
    assert train.find_resume(composed(f"resume={last}", "freeze=[encoder]")) == last
    told = refusal(train.find_resume, composed(f"resume={last}", "freeze=[encoder]", *distilled))
    assert "was trained by gtcrn.training.supervised.SupervisedModule, this run by gtcrn.training.distillation." in told
    told = refusal(train.find_resume, composed(f"resume={last}", "freeze=[decoder]"))
    assert "was trained with freeze=[encoder], this run has freeze=[decoder]" in told
    told = refusal(train.find_resume, composed(f"resume={last}", "model.width_mult=0.5"))
    assert "holds another model" in told


def test_resume_takes_the_same_layers_of_a_distillation(earlier, published):
    cfg = composed("+experiment=distil_gtcrn_light_v3", f"training.teacher={published}")
    last = earlier("+experiment=distil_gtcrn_light_v3", f"training.teacher={published}")
    train.check_continuation(module_of(cfg), last)
    cfg.training.features.encoder.match = "attention"
    told = refusal(train.check_continuation, module_of(cfg), last)
    assert "features.encoder.projection.bias is (12,) in it, missing here; resume with the same training.*" in told


def test_resume_of_a_run_whose_configuration_is_gone(earlier):
    last = earlier()
    (last.parents[1] / ".hydra" / "config.yaml").unlink()
    assert train.find_resume(composed(f"resume={last}")) == last
