"""Building from a configuration: `model=` beside `ckpt=`, wrong values, missing values and empty paths."""

from functools import partial

import pytest
import pytorch_lightning as pl
import torch
from fixtures.commands import CONF
from omegaconf import OmegaConf

from gtcrn import tasks
from gtcrn.errors import UserError
from gtcrn.models import dtln, gtcrn, light_v3, micro, ulunas
from gtcrn.models.pretrained import load, to_official
from gtcrn.tasks.building import build, build_enhancer, load_or_build, placed


@pytest.fixture
def composed(command):
    return partial(command, "task=profile")


@pytest.fixture
def checkpoint(tmp_path):
    def write(enhancer):
        torch.save({"model": to_official(enhancer)}, tmp_path / "any.tar")
        return f"ckpt={tmp_path / 'any.tar'}"

    return write


@pytest.mark.parametrize(
    ("enhancer", "named"),
    [
        (gtcrn.build(), "gtcrn"),
        (dtln.build(), "dtln"),
        (dtln.build(norm_stft=True), "dtln_norm"),
        (dtln.build(n_fft=1024, hop_length=256, basis_size=512, sample_rate=32000), "dtln_32k"),
        (micro.build(), "micro"),
        (ulunas.build(), "ulunas"),
    ],
    ids=["gtcrn", "dtln", "dtln_norm", "dtln_32k", "micro", "ulunas"],
)
def test_the_name_of_what_is_in_the_file_is_allowed(composed, checkpoint, enhancer, named):
    loaded = load_or_build(composed(checkpoint(enhancer), f"model={named}", "padding=reflect"))
    assert type(loaded.core) is type(enhancer.core) and loaded.padding == "reflect"


@pytest.mark.parametrize(
    ("enhancer", "named", "message"),
    [
        (gtcrn.build(), "light_v3", "holds GTCRN, but model=light_v3 is LightV3; leave model= out"),
        (
            dtln.build(),
            "dtln_norm",
            "holds norm_stft=False, but model=dtln_norm is norm_stft=True; .* leave model= out",
        ),
        (dtln.build(norm_stft=True), "dtln", "holds norm_stft=True, but model=dtln is norm_stft=False"),
        (dtln.build(), "dtln_32k", "holds basis_size=256, hop_length=128, n_fft=512, sample_rate=16000, but"),
        (gtcrn.build(dpgrnn_count=1), "gtcrn", "holds dpgrnn_count=1, but model=gtcrn is dpgrnn_count=2"),
        (
            light_v3.build(use_two_dpgrnn=False, causal=False),  # as published; r=9 is what r=null gives
            "light_v3",
            "holds causal=False, use_two_dpgrnn=False, but model=light_v3 is causal=True, use_two_dpgrnn=True; a check",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) and " " not in value else "",
)
def test_the_name_of_something_else_is_refused(composed, checkpoint, enhancer, named, message):
    with pytest.raises(UserError, match=message) as error:
        load_or_build(composed(checkpoint(enhancer), f"model={named}"))
    assert "\n" not in str(error.value)


def test_published_files_under_their_names(composed, references):
    for file, named in (
        ("gtcrn/dns3_epoch87.tar", "gtcrn"),
        ("micro/best_model_dns3.tar", "micro"),
        ("dtln/model.h5", "dtln"),
        ("dtln/DTLN_norm_40h.h5", "dtln_norm"),
    ):
        loaded = load_or_build(composed(f"ckpt={references / file}", f"model={named}"))
        assert type(loaded.core) is type(load_or_build(composed(f"model={named}")).core)
        weights, published = loaded.state_dict(), load(references / file).state_dict()
        assert weights.keys() == published.keys() and all(torch.equal(weights[key], published[key]) for key in weights)


def test_a_choice_that_builds_nothing_is_named(composed, checkpoint):
    for overrides in (["model=all"], ["model=all", checkpoint(gtcrn.build())]):
        with pytest.raises(UserError, match="model._target_ is missing: this choice is nothing to build; take another"):
            load_or_build(composed(*overrides))


def test_values_of_the_wrong_type_are_named_in_bases_too(composed):
    """A module passes arguments on to its base class."""
    cfg = composed("task=train", "training=distillation", "training.teacher=any", "training.ema_decay=slow")
    with pytest.raises(UserError, match="training.ema_decay=slow: must be a number"):
        build(cfg.training)


@pytest.mark.parametrize(
    ("experiment", "core", "layers"),
    [("distil_gtcrn_light_v3", light_v3.LightV3, gtcrn.build), ("distil_light_v3_micro", micro.Micro, light_v3.build)],
    ids=["distil_gtcrn_light_v3", "distil_light_v3_micro"],
)
def test_experiments_are_complete(composed, checkpoint, experiment, core, layers):
    """Neither the teacher nor the student lacks a layer that the experiment names."""
    path = checkpoint(layers(causal=False)).removeprefix("ckpt=")
    cfg = composed("task=train", f"experiment={experiment}", f"training.teacher={path}")
    enhancer = build(cfg.model)
    module = build(cfg.training, enhancer=enhancer, loss=build(cfg.loss), optimizer=build(cfg.optimizer))
    assert type(enhancer.core) is core and enhancer.total_lookahead() == 0
    assert list(module.features) == ["encoder", "dual_path", "decoder"]
    assert module.optimizer.keywords["lr"] == 4e-3  # the schedule's, of data=demo


def test_experiment_without_its_teacher(composed):
    cfg = composed("task=train", "experiment=distil_gtcrn_light_v3")
    with pytest.raises(UserError, match="training.teacher is not set: name the teacher's checkpoint"):
        build(cfg.training, enhancer=build(cfg.model), loss=build(cfg.loss))


def test_what_a_user_adds_to_a_list_comes_after_the_tasks_own(composed):
    """The list is `+trainer.callbacks=[…]`, beside the callbacks that every run has."""
    added = "+trainer.callbacks=[{_target_: pytorch_lightning.callbacks.Timer, duration: '00:00:00:01'}]"
    own = pl.callbacks.TQDMProgressBar()
    trainer = build(composed(added).trainer, logger=[], callbacks=[own], default_root_dir="")
    assert trainer.callbacks.index(own) == 0
    assert any(isinstance(callback, pl.callbacks.Timer) for callback in trainer.callbacks)
    with pytest.raises(UserError, match="trainer.default_root_dir: is set by the task itself"):
        build(composed("+trainer.default_root_dir=x").trainer, default_root_dir="")


def test_resuming_a_sweep_needs_a_sweep(composed, capsys):
    with pytest.raises(SystemExit, match="2"):
        tasks.run(composed("sweep.resume=true", "run_dir=out"))
    assert "started with -m" in capsys.readouterr().err


PATHS = {"ckpt", "input", "output", "enhanced", "clean", "noisy", "pairs", "calibration", "audio", "cache_dir", "runs"}
PATHS |= {"models", "files", "reference", "trained", "resume", "init_from", "run_dir"}


@pytest.mark.parametrize("task", sorted(path.stem for path in (CONF / "task").glob("*.yaml")))
def test_an_empty_path_is_never_taken_for_none(composed, capsys, task):
    """`ckpt=$MODEL` of an unset variable would enhance with random weights."""
    cfg = composed(f"task={task}", "data=dns_pairs", *(["profile=quantization"] if task == "profile" else []))
    keys = [*sorted(PATHS & cfg.keys()), "data.root", "data.test_root", "data.cache_dir", "paths.outputs"]
    keys += [f"profile.{key}" for key in sorted(PATHS & cfg.get("profile", {}).keys())]
    for key in keys:
        before = OmegaConf.to_container(cfg)
        OmegaConf.update(cfg, key, " " if key.startswith("data") else "")
        with pytest.raises(SystemExit) as ended:
            tasks.run(cfg)
        assert ended.value.code == 2
        assert capsys.readouterr().err.startswith(f"error: {key}= is empty, perhaps by an unset variable of the shell")
        cfg = OmegaConf.create(before)


@pytest.mark.parametrize(
    ("task", "key"), [("enhance", "ckpt"), ("enhance", "input"), ("enhance", "output"), ("export", "ckpt")]
)
def test_null_is_no_path_that_a_task_needs(composed, capsys, task, key):
    values = {"ckpt": "a.ckpt", "output": "out", "run_dir": "out"} | ({"input": "in"} if task == "enhance" else {})
    values[key] = "null"
    with pytest.raises(SystemExit):
        tasks.run(composed(f"task={task}", *(f"{name}={value}" for name, value in values.items())))
    assert capsys.readouterr().err == f"error: {key}=null: must be text\n"


def test_what_the_machine_refuses_is_not_put_down_to_a_key(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError) as told:
        build(OmegaConf.create({"_target_": "os.mkdir", "path": str(tmp_path / "file" / "folder")}))
    assert tasks.mendable(told.value) == f"{tmp_path / 'file' / 'folder'}: Not a directory"


def test_a_model_that_is_no_enhancer_is_refused():
    with pytest.raises(UserError, match="model._target_=torch.nn.Identity: makes no Enhancer but Identity"):
        build_enhancer(OmegaConf.create({"model": {"_target_": "torch.nn.Identity"}}).model)


def test_a_device_that_is_not_there_is_told_in_a_line():
    assert placed(micro.build(), "cpu").core.erb.erb_fc.weight.device.type == "cpu"
    with pytest.raises(UserError, match="^device=gpu1: .*") as error:
        placed(micro.build(), "gpu1")
    assert "\n" not in str(error.value)
