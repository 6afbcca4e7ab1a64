"""The beginning and the resuming of a training: mistakes are found before the work."""

import logging
import shutil
from functools import partial

import pytest
import torch
import yaml
from fixtures.commands import compose, run_command
from omegaconf import OmegaConf

from gtcrn.errors import UserError
from gtcrn.models import gtcrn, light_v3
from gtcrn.models.pretrained import open_checkpoint, read_checkpoint, to_official
from gtcrn.profiling.cost import measure
from gtcrn.tasks import resuming, train
from gtcrn.tasks.building import build, model_record

composed = partial(compose, "task=train", "run_dir=new")


def module_of(cfg):
    return build(cfg.training, enhancer=build(cfg.model), loss=build(cfg.loss), model_record=model_record(cfg))


@pytest.fixture
def published(tmp_path):
    """Return the checkpoint of an offline Light v3 with one dual-path block, in the published format."""
    torch.save({"model": to_official(light_v3.build(use_two_dpgrnn=False, causal=False))}, tmp_path / "light.tar")
    return tmp_path / "light.tar"


@pytest.fixture
def earlier(tmp_path):
    """Return a function that writes what a stopped run of these overrides leaves, and returns its last checkpoint."""

    def leave(*overrides):
        cfg = composed(*overrides)
        module, run = module_of(cfg), tmp_path / "outputs" / "earlier"
        position = {"epoch": 1, "batches": 2}
        checkpoint = {"state_dict": module.state_dict(), "global_step": 12, "SpeechDataModule": position}
        module.on_save_checkpoint(checkpoint)
        (run / "checkpoints").mkdir(parents=True, exist_ok=True)
        record = {"training": OmegaConf.to_container(cfg.training, resolve=True), "freeze": list(cfg.freeze)}
        (run / "hparams.yaml").write_text(yaml.safe_dump(record))
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


def test_what_is_compiled_takes_no_kernels():
    told = refusal(train.check_beginning, composed("kernels=numba", "training.compile=default"))
    assert told.startswith("kernels=numba with training.compile=default: what is compiled computes with PyTorch's")
    train.check_beginning(composed("training.compile=default"))


@pytest.mark.slow
def test_devices_share_a_batch_in_half_precision(tmp_path):
    tiny = "model=dtln model.lstm_size=8 model.basis_size=12 model.n_fft=64 model.hop_length=16 evaluate=false".split()
    short = "trainer.max_epochs=1 data.train_files=8 data.validation_files=2 data.test_files=2".split()
    quiet = "logger=csv callbacks=none metrics.validation=[] monitor=val/loss".split()
    two = "trainer=ddp trainer.accelerator=cpu trainer.devices=2 trainer.accumulate_grad_batches=2".split()
    result = run_command(tmp_path, *tiny, *short, *quiet, *two, "data.batch_size=2")
    assert result.returncode == 0, result.stderr
    assert "batch: 2 devices × 2 accumulated × 2 = 8 crops, 16.0 s of audio a step" in result.stdout
    (last,) = tmp_path.rglob("last.ckpt")
    assert read_checkpoint(last)["global_step"] == 1


def test_what_is_frozen_is_counted(caplog):
    caplog.set_level(logging.INFO)
    enhancer = gtcrn.build()
    total = train.trained_parameters(enhancer)
    assert train.freeze(enhancer, []) == []
    train.freeze(enhancer, ["encoder", "dual_path.0"])
    left = train.trained_parameters(enhancer)
    frozen = [enhancer.core.encoder, enhancer.core.dual_path[0]]
    assert total - left == sum(p.numel() for part in frozen for p in part.parameters())
    assert caplog.messages == [f"freeze=[encoder,dual_path.0]: {left:,} parameters train, {total - left:,} are frozen"]


def found(cfg):
    """Return the checkpoint from which this configuration resumes."""
    return resuming.find_checkpoint(cfg, resuming.find_run(cfg))[0]


def test_resume_takes_the_same_way_to_train(earlier, published):
    distilled = ("training=distillation", f"training.teacher={published}")
    last = earlier("freeze=[encoder]")
    assert found(composed(f"resume={last}", "freeze=[encoder]")) == last
    told = refusal(found, composed(f"resume={last}", "freeze=[encoder]", *distilled))
    assert "was trained by gtcrn.training.supervised.SupervisedModule, this run by gtcrn.training.distillation." in told
    told = refusal(found, composed(f"resume={last}", "freeze=[decoder]"))
    assert "was trained with freeze=[encoder], this run has freeze=[decoder]" in told
    told = refusal(found, composed(f"resume={last}", "model.width_mult=0.5"))
    assert "holds another model" in told


def test_resume_takes_the_same_layers_of_a_distillation(earlier, published):
    cfg = composed("experiment=distil_gtcrn_light_v3", f"training.teacher={published}")
    last = earlier("experiment=distil_gtcrn_light_v3", f"training.teacher={published}")
    content = read_checkpoint(last)
    resuming.check_continuation(module_of(cfg), last, content)
    cfg.training.features.encoder.match = "attention"
    told = refusal(resuming.check_continuation, module_of(cfg), last, content)
    assert "features.encoder.projection.bias is (12,) in it, missing here; resume with the same training.*" in told


def test_resume_of_a_run_whose_configuration_is_gone(earlier):
    last = earlier()
    (last.parents[1] / "hparams.yaml").unlink()
    assert found(composed(f"resume={last}")) == last


def test_a_job_of_a_resumed_sweep_goes_on_by_itself(earlier):
    last = earlier()
    here = ("run_name=job", "logger=csv", f"run_dir={last.parents[1]}", "resume=auto")
    record = OmegaConf.to_container(composed(*here, "sweep.resume=true"), resolve=True)
    (last.parents[1] / "hparams.yaml").write_text(yaml.safe_dump(record))
    assert found(composed(*here)) == last
    assert "another configuration (data.seed=1 there, 2 here" in refusal(found, composed(*here, "seed=2"))


def test_a_damaged_checkpoint_gives_way_to_the_one_before(earlier, caplog):
    last = earlier()
    shutil.copy(last, last.with_name("previous.ckpt"))
    last.write_bytes(last.read_bytes()[:1000])
    assert found(composed(f"resume={last}")) == last.with_name("previous.ckpt")
    assert f"{last}: " in caplog.text and "; going on from the one before it, of step 12" in caplog.text
    last.unlink()
    assert found(composed(f"resume={last}")) == last.with_name("previous.ckpt")
    last.with_name("previous.ckpt").write_bytes(b"")
    (last.with_name("best.ckpt")).write_bytes(b"")
    told = refusal(found, composed(f"resume={last}"))
    assert f"there is nothing to go on from; init_from={last.with_name('best.ckpt')} begins another run" in told


def test_a_run_whose_last_checkpoint_is_gone_is_not_overwritten(earlier):
    last = earlier()
    here = composed(f"run_dir={last.parents[1]}", "resume=auto")
    best = last.rename(last.with_name("best.ckpt"))
    assert resuming.find_checkpoint(here, last.parents[1]) is None  # of the first epoch, at whose end it was killed
    content = read_checkpoint(best)  # it is mapped into memory, so the file must not be written over
    best.unlink()
    torch.save(content | {"epoch": 1}, best)
    told = refusal(resuming.find_checkpoint, here, last.parents[1])
    assert "last.ckpt is gone, so it can't go on" in told and f"init_from={best} begins another run" in told


def test_a_folder_in_the_place_of_the_checkpoint_is_told_at_once(earlier):
    last = earlier()
    last.rename(last.with_name("previous.ckpt"))
    last.mkdir()
    assert "last.ckpt: a folder, where the run writes" in refusal(found, composed(f"resume={last}"))


def test_only_the_last_checkpoint_is_resumed_from(earlier):
    last = earlier()
    best = shutil.copy(last, last.with_name("best.ckpt"))
    told = refusal(found, composed(f"resume={best}"))
    assert "expected the checkpoints/last.ckpt of a run, or auto; init_from= begins a run with the weights of" in told


def test_a_run_goes_on_only_if_there_is_something_left(earlier):
    """The earlier run has trained one epoch, twelve steps."""
    last = earlier()
    assert found(composed(f"resume={last}", "trainer.max_epochs=1")) == last
    told = refusal(found, composed(f"resume={last}", "trainer.max_epochs=0"))
    assert told.endswith("its run has trained 1 epochs, and trainer.max_epochs=0: raise it to go on")
    (last.parents[1] / "summary.json").write_text("{}")
    for limit in ("max_epochs=1", "max_steps=12"):
        assert f"and trainer.{limit}: raise it to go on" in refusal(
            found, composed(f"resume={last}", f"trainer.{limit}")
        )
    assert found(composed(f"resume={last}", "trainer.max_epochs=2")) == last


def test_one_process_trains_in_a_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(resuming, "_ORPHANS", 0.1)
    with resuming.locked(tmp_path / "run"):
        (tmp_path / "run" / "metrics.csv").write_text("")
        told = refusal(resuming.locked(tmp_path / "run").__enter__)
        assert told == f"{tmp_path / 'run'}: another process is training this run; wait for it, or end it"
    with resuming.locked(tmp_path / "run"):
        pass
    with resuming.locked(tmp_path / "nothing"):
        pass
    assert not (tmp_path / "nothing").exists()
    (tmp_path / "file").write_text("")
    assert "can't be written (Not a directory; " in refusal(resuming.locked(tmp_path / "file" / "run").__enter__)


def test_a_metric_and_a_loss_term_of_one_name_are_refused(command, tmp_path):
    cfg = command("metrics.validation=[si_sdr]", "monitor=val/si_sdr")
    train.make_callbacks(cfg, tmp_path, ("loss", "sisdr"))
    with pytest.raises(UserError, match="metrics.validation: val/si_sdr is a part of the loss too"):
        train.make_callbacks(cfg, tmp_path, ("loss", "si_sdr"))


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["objectives=[best.nosuch]"], "best.nosuch will not be in the summary; there are best.val/pesq_wb"),
        (["objectives=[cost.mmacs_exact,best.val/pesq]"], "best.val/pesq will not be in the summary; there are"),
        (["objectives=[test.enhanced_stoi]", "evaluate=false"], "test.enhanced_stoi will not be in the summary"),
        (["objectives=[test.enhanced_stoi]", "metrics.test=[si_sdr]"], "test.enhanced_stoi will not be in the summary"),
    ],
)
def test_an_objective_that_the_summary_lacks_is_refused_before_the_training(overrides, told, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "build_data", None)  # is not reached
    cfg = composed(f"run_dir={tmp_path}", "trainer=cpu", "callbacks=none", *overrides)
    assert told in refusal(train.run, cfg)


def test_objectives_of_every_section_of_the_summary():
    cfg = composed("trainer=cpu", "callbacks=none")
    cost = measure(build(cfg.model))
    trainer = train.check_trainer(cfg, train.make_callbacks(cfg, resuming.find_run(cfg), ["loss"]))
    train.check_objectives(cfg, trainer, cost)
    cfg.objectives = ["best.val/pesq_wb", "best.val/si_sdr", "cost.mmacs_exact", "test.improvement_pesq_wb"]
    train.check_objectives(cfg, trainer, cost)


def test_a_number_of_jobs_without_a_sweep_means_nothing(command):
    assert train.job_of_sweep(command("sweep.jobs=3")) == ("", 0)
