"""Distillation from a teacher's output and features, and frozen parts; both resume exactly."""

import copy
from functools import partial

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

import gtcrn
from gtcrn.errors import UserError
from gtcrn.losses import CompressedMagnitude, Loss
from gtcrn.models import dtln, light_v3, micro
from gtcrn.models import gtcrn as gtcrn_model
from gtcrn.models.pretrained import to_official
from gtcrn.training.datamodule import SpeechDataModule
from gtcrn.training.distillation import DistillationModule, FeatureMatch
from gtcrn.training.freezing import Frozen
from gtcrn.training.schedulers import warmup_cosine
from gtcrn.training.supervised import SupervisedModule


@pytest.fixture
def teacher(tmp_path):
    """Return a function that writes a model of random weights as a checkpoint."""

    def write(enhancer):
        torch.save({"model": to_official(enhancer)}, tmp_path / "teacher.tar")
        return str(tmp_path / "teacher.tar")

    return write


def loss():
    return Loss({"magnitude": CompressedMagnitude(70, 0.3, 512, 256)})


def batch_of(samples=8000, seed=0):
    generator = torch.Generator().manual_seed(seed)
    noisy, clean = torch.randn(2, 2, samples, generator=generator) * 0.1
    return {"noisy": noisy, "clean": clean, "name": ["a", "b"]}


def matches():
    return {
        "encoder": FeatureMatch("encoder", "encoder.4", weight=0.5),
        "dual_path": FeatureMatch("dual_path", "dual_path", weight=0.25, match="attention"),
    }


def maps_of(enhancer, name, noisy):
    """Return (B, C, T, F), the output of an encoder's or a dual path's block, computed by hand."""
    kept = []
    handle = enhancer.core.get_submodule(name).register_forward_hook(
        lambda layer, inputs, output: kept.append(output[0])
    )
    enhancer.estimate(noisy)
    handle.remove()
    return kept[0]


def test_the_total_is_the_sum_that_is_documented(teacher):
    path = teacher(gtcrn_model.build())
    student = light_v3.build()
    module = DistillationModule(student, loss(), path, supervised_weight=0.3, output_weight=0.7, features=matches())
    module.eval()  # statistics of whole runs, so that a second pass gives the same
    batch = batch_of()
    total, terms = module.training_loss(module.estimate(batch["noisy"]), batch)

    taught = gtcrn.load(path)
    wave, spec = student.estimate(batch["noisy"])
    target_wave, target_spec = taught.estimate(batch["noisy"])
    supervised = (
        70
        * ((spec.square().sum(1) + 1e-12) ** 0.15 - (student.spectra(batch["clean"]).square().sum(1) + 1e-12) ** 0.15)
        .square()
        .mean()
    )
    output = (
        70 * ((spec.square().sum(1) + 1e-12) ** 0.15 - (target_spec.square().sum(1) + 1e-12) ** 0.15).square().mean()
    )
    theirs = maps_of(taught, "encoder.4", batch["noisy"])
    projected = module.features["encoder"].projection(maps_of(student, "encoder.4", batch["noisy"]))
    encoder = (projected - theirs).square().mean()
    attention = [
        maps_of(model, "dual_path.1", batch["noisy"]).square().sum(1).flatten(1) for model in (student, taught)
    ]
    attention = [a / a.norm(dim=1, keepdim=True) for a in attention]
    dual_path = (attention[0] - attention[1]).square().sum(1).mean()

    assert list(terms) == ["magnitude", "output", "feature_encoder", "feature_dual_path"]
    torch.testing.assert_close(terms["output"], output.detach(), rtol=1e-4, atol=0)
    torch.testing.assert_close(terms["feature_encoder"], encoder.detach())
    torch.testing.assert_close(terms["feature_dual_path"], dual_path.detach())
    expected = 0.3 * supervised + 0.7 * output + 0.5 * encoder + 0.25 * dual_path
    torch.testing.assert_close(total, expected, rtol=1e-4, atol=0)


def test_gradients_reach_the_student_and_the_projection_but_not_the_teacher(teacher):
    module = DistillationModule(
        light_v3.build(), loss(), teacher(gtcrn_model.build()), 0.0, 0.0, {"e": FeatureMatch("encoder.1", "encoder.1")}
    )
    batch = batch_of()
    total, _ = module.training_loss(module.estimate(batch["noisy"]), batch)
    total.backward()
    assert module.features["e"].projection.weight.grad.abs().max() > 0
    reached = {name for name, p in module.enhancer.core.named_parameters() if p.grad is not None and p.grad.any()}
    # features of the second block need nothing behind it
    assert reached and all(name.startswith(("features", "encoder.0", "encoder.1")) for name in reached)
    assert all(parameter.grad is None for parameter in module.teacher.parameters())
    assert not module.teacher.training and module.train().teacher.training is False


def test_a_student_like_its_teacher_has_nothing_to_learn_from_it(teacher):
    student = light_v3.build(causal=False)
    features = {"attention": FeatureMatch("dual_path", "dual_path", match="attention")}
    module = DistillationModule(student, loss(), teacher(student), features=features).eval()
    batch = batch_of()
    _, terms = module.training_loss(module.estimate(batch["noisy"]), batch)
    assert terms["output"] == 0 and terms["feature_attention"] < 1e-10
    assert terms["magnitude"] > 0


def test_attention_minds_the_place_and_not_the_scale():
    match = FeatureMatch("encoder", "encoder", match="attention")
    student = torch.rand(2, 6, 5, 7)
    assert match(student, 30 * student[:, [3, 1, 0, 5, 4, 2]]) < 1e-10
    assert match(student, student.flip(2)) > 1e-3
    apart = torch.zeros(2, 1, 1, 2)
    apart[..., 0] = 1
    torch.testing.assert_close(match(apart, apart.flip(3)), torch.tensor(2.0))
    assert match(torch.zeros(2, 6, 5, 7, requires_grad=True), student).isfinite()  # silence


def test_other_numbers_of_bands_are_interpolated(teacher):
    student = light_v3.build(erb_low_bins=33, erb_bands=32)
    module = DistillationModule(student, loss(), teacher(gtcrn_model.build()), features=matches())
    batch = batch_of()
    total, _ = module.training_loss(module.estimate(batch["noisy"]), batch)
    assert total.isfinite()


def test_frame_models_teach_and_learn(teacher):
    """Such models have features (B, T, C), no spectrum, and other frames than the spectral models."""
    features = {
        "basis": FeatureMatch("encoder", "encoder"),
        "mask": FeatureMatch("basis_separation", "basis_separation.lstm"),
    }
    module = DistillationModule(dtln.build(lstm_size=16), loss(), teacher(dtln.build()), features=features)
    batch = batch_of()
    total, terms = module.training_loss(module.estimate(batch["noisy"]), batch)
    total.backward()
    assert module.features["mask"].projection.weight.shape == (128, 257 - 1, 1, 1)
    for student, lecturer in ((light_v3.build(), dtln.build()), (dtln.build(), light_v3.build(causal=False))):
        module = DistillationModule(student, loss(), teacher(lecturer))
        total, terms = module.training_loss(module.estimate(batch["noisy"]), batch)
        assert total.isfinite() and terms["output"] > 0
    with pytest.raises(
        UserError, match="102 frames of the student last as long as .* of the teacher: take one of the same hop"
    ):
        DistillationModule(
            light_v3.build(), loss(), teacher(dtln.build()), features={"e": FeatureMatch("encoder", "encoder")}
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"teacher": None}, "training.teacher is not set: name the teacher's checkpoint"),
        ({"teacher": "nowhere.tar"}, "nowhere.tar: no such file"),
        ({"output_weight": -1}, "training.output_weight=-1: must be a number of at least 0"),
        ({"output_weight": 0}, "nothing is distilled"),
        ({"features": {"e": ("encodr", "encoder")}}, "LightV3 has no part 'encodr'; did you mean encoder"),
        ({"features": {"e": ("encoder", "encoder.9")}}, "GTCRN has no part 'encoder.9'; did you mean encoder"),
        ({"features": {"e": ("", "encoder")}}, "LightV3 has no part ''"),
        ({"features": {"e": ("erb", "encoder")}}, "'erb' is not run as a whole; name a part within it"),
        ({"features": {"e": ("dual_path.0.inter", "encoder")}}, r"'dual_path.0.inter' puts out \(2, 102, 33, 9\)"),
        ({"features": {"e": ("dual_path.0.intra", "encoder")}}, r"'dual_path.0.intra' puts out \(2, 102, 33, 18\)"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_mistakes_are_named(teacher, options, message):
    options = {"teacher": teacher(gtcrn_model.build())} | options
    features = {name: FeatureMatch(*pair) for name, pair in options.pop("features", {}).items()}
    with pytest.raises(UserError, match=message) as error:
        DistillationModule(light_v3.build(), loss(), features=features, **options)
    assert "\n" not in str(error.value)


def test_other_rates_and_matches_are_named(teacher):
    with pytest.raises(
        UserError, match="is for 16000 Hz, but the student for 8000 Hz; take a teacher of the same rate"
    ):
        DistillationModule(light_v3.build(sample_rate=8000), loss(), teacher(gtcrn_model.build()))
    with pytest.raises(UserError, match="match=l3 of encoder: must be one of l2, attention"):
        FeatureMatch("encoder", "encoder", match="l3")
    with pytest.raises(UserError, match="weight=-1 of encoder"):
        FeatureMatch("encoder", "encoder", weight=-1)


# --- runs


class Stop(Exception):
    pass


class Journal(pl.callbacks.Checkpoint):
    """A callback, the last one, that saves and stops the run after `stop_after` steps."""

    def __init__(self, stop_after, folder):
        self.stop_after, self.folder = stop_after, folder

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_index):
        if trainer.global_step == self.stop_after:
            trainer.save_checkpoint(self.folder / "stopped.ckpt")
            raise Stop


@pytest.fixture
def data(mini_data):
    return mini_data()


def run(module, data, callbacks=(), ckpt_path=None):
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=2, callbacks=list(callbacks), logger=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, use_distributed_sampler=False,
        enable_checkpointing=bool(callbacks),
    )  # fmt: skip
    trainer.fit(module, datamodule=SpeechDataModule(data), ckpt_path=ckpt_path, weights_only=True)
    return trainer


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("ema_decay", [None, 0.9], ids=["weights", "ema"])
def test_resumed_run_equals_uninterrupted_one(data, teacher, tmp_path, ema_decay):
    """This includes projections, and a teacher that looks ahead. The run stops in the second epoch of three steps."""
    path = teacher(light_v3.build(causal=False))

    def module():
        torch.manual_seed(0)
        record = {"build": "gtcrn.models.light_v3.build", "knobs": {"width_mult": 0.5}}
        return DistillationModule(
            light_v3.build(width_mult=0.5), loss(), path, features=matches(),
            scheduler=partial(warmup_cosine, warmup_steps=2), ema_decay=ema_decay,
            model_record=record,
        )  # fmt: skip

    whole, stopped, resumed = module(), module(), module()
    projection = whole.features["encoder"].projection.weight.clone()
    run(whole, data, [pl.callbacks.Checkpoint()])
    with pytest.raises(Stop):
        run(stopped, data, [Journal(4, tmp_path)])
    trainer = run(resumed, data, [pl.callbacks.Checkpoint()], str(tmp_path / "stopped.ckpt"))
    assert trainer.global_step == 6
    for (name, a), b in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    assert not torch.equal(resumed.features["encoder"].projection.weight, projection)

    saved = torch.load(tmp_path / "stopped.ckpt", weights_only=True)["state_dict"]
    assert saved.keys() == resumed.state_dict().keys()
    assert not any("teacher" in name for name in saved)
    plain = gtcrn.load(tmp_path / "stopped.ckpt")
    assert plain.state_dict().keys() == light_v3.build(width_mult=0.5).state_dict().keys()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("enhancer", "names", "ema_decay"),
    [
        (light_v3.build, ["encoder", "dual_path.0"], None),
        (light_v3.build, ["encoder", "dual_path.0"], 0.9),
        (partial(micro.build, channels=4), ["decoder.0", "decoder.4"], None),
        (partial(dtln.build, lstm_size=8), ["magnitude_separation", "decoder"], None),
    ],
    ids=["light_v3", "light_v3, average", "micro", "dtln"],
)
def test_frozen_parts_stay_bit_equal_and_the_others_train(data, enhancer, names, ema_decay):
    """This includes batch statistics, and validation between epochs."""
    torch.manual_seed(0)
    module = SupervisedModule(enhancer(), loss(), scheduler=partial(warmup_cosine, warmup_steps=1), ema_decay=ema_decay)
    core = module.enhancer.core
    frozen = Frozen(core, names)
    before = copy.deepcopy(core.state_dict())
    run(module, data, [frozen, pl.callbacks.Checkpoint()])
    still = [key for key, value in core.state_dict().items() if torch.equal(value, before[key])]
    inside = [key for key in before if key.startswith(tuple(f"{name}." for name in names))]
    fixed = [key for key in before if key.startswith("erb.")]
    assert inside and sorted(still) == sorted(inside + fixed)
    optimised = {id(p) for group in module.trainer.optimizers[0].param_groups for p in group["params"]}
    assert optimised == {id(p) for p in core.parameters() if p.requires_grad}


def test_frozen_parts_compute_as_in_evaluation_whatever_train_was_called():
    torch.manual_seed(0)
    enhancer = dtln.build(dropout=0.5)
    frozen = Frozen(enhancer.core, ["magnitude_separation", "basis_separation"])
    wave = torch.randn(1, 4000)
    expected = enhancer.eval()(wave)[0]
    enhancer.train()
    frozen.on_train_batch_start()
    assert torch.equal(enhancer(wave)[0], expected)
    # cuDNN's condition for gradients through a recurrent layer, and dropout is off all the same
    assert enhancer.core.basis_separation.lstm.training and not enhancer.core.basis_separation.dense.training


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["encoderr"], "freeze: LightV3 has no part 'encoderr'; did you mean encoder.* there are features, encoder, "),
        (["erb"], "freeze: 'erb' has no parameters that train"),
        (["features", "encoder", "dual_path", "decoder"], "nothing is left to train"),
    ],
    ids=str,
)
def test_parts_that_cannot_be_frozen_are_named(names, message):
    with pytest.raises(UserError, match=message) as error:
        Frozen(light_v3.build().core, names)
    assert "\n" not in str(error.value)


@pytest.mark.filterwarnings("ignore")
def test_gradients_pass_through_a_frozen_recurrent_part():
    module = SupervisedModule(light_v3.build(), loss(), scheduler=partial(warmup_cosine, warmup_steps=1))
    frozen = Frozen(module.enhancer.core, ["dual_path", "decoder"])
    before = copy.deepcopy(module.enhancer.core.encoder.state_dict())
    items = [{"noisy": wave, "clean": wave, "name": "a"} for wave in batch_of()["noisy"]]
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[frozen],
    )  # fmt: skip
    trainer.fit(module, DataLoader(items, 2))
    after = module.enhancer.core.encoder.state_dict()
    assert not torch.equal(after["0.pw.weight"], before["0.pw.weight"])
