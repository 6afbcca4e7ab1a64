"""Adversarial training: who learns when, what counts as a step, exact resuming, and refused values."""

import logging
from functools import partial

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.precision import MixedPrecision
from torch.optim import Adam, AdamW
from torch.utils.data import DataLoader

import gtcrn
from gtcrn.errors import UserError
from gtcrn.losses import L1, Loss, MultiResolutionSTFT
from gtcrn.models import dtln, light_v3
from gtcrn.models.discriminators import CombinedDiscriminator, MultiPeriodDiscriminator, MultiScaleDiscriminator
from gtcrn.training.adversarial import AdversarialModule
from gtcrn.training.datamodule import SpeechDataModule
from gtcrn.training.schedulers import warmup_cosine
from gtcrn.training.supervised import SupervisedModule

pytestmark = pytest.mark.filterwarnings("ignore")

KNOBS = {"width_mult": 0.5, "use_two_dpgrnn": False}
AT_ONCE = partial(warmup_cosine, warmup_steps=1)
RECORD = {"build": "gtcrn.models.light_v3.build", "knobs": KNOBS}
ADVERSARIAL = {"train/adversarial", "train/feature_matching", "train/discriminator_gradient_norm"} | {
    f"train/discriminator{side}" for side in ("", "_real", "_fake")
}


class Journal(pl.Callback):
    """A callback that keeps the values logged at every step, and the discriminator's weights before each epoch."""

    def __init__(self):
        self.rows, self.discriminators = [], []

    def on_train_epoch_start(self, trainer, module):
        self.discriminators.append({k: v.clone() for k, v in module.discriminator.state_dict().items()})

    def on_train_batch_end(self, trainer, module, *args):
        self.rows.append({key: float(value) for key, value in trainer.callback_metrics.items()})
        assert all(parameter.grad is None for parameter in module.parameters())


class SaveAt(pl.callbacks.Checkpoint):
    """A callback, the last one, that saves `step_<n>.ckpt` after these steps."""

    def __init__(self, steps, folder):
        self.steps, self.folder = steps, folder

    def on_train_batch_end(self, trainer, *args):
        if trainer.global_step in self.steps:
            trainer.save_checkpoint(self.folder / f"step_{trainer.global_step}.ckpt")


def make_parts(model=light_v3, **sizes):
    torch.manual_seed(0)
    enhancer = model.build(**(sizes or KNOBS))
    loss = Loss({"l1": L1(3), "stft": MultiResolutionSTFT(3, [[512, 128, 512]], 1.5, 3000, 16000)})
    return enhancer, loss, MultiScaleDiscriminator(2, [4, 8, 16])


def make_module(**options):
    enhancer, loss, discriminator = make_parts()
    options = {"discriminator": discriminator, "start_epoch": 1, "scheduler": AT_ONCE, "model_record": RECORD} | options
    return AdversarialModule(enhancer, loss, **options)


def make_trainer(callbacks, **options):
    return pl.Trainer(
        **{"accelerator": "cpu", "max_epochs": 2, "callbacks": callbacks} | options,
        logger=False,
        enable_checkpointing=any(isinstance(callback, SaveAt) for callback in callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def items(count=6, length=4096):
    generator = torch.Generator().manual_seed(1)
    clean = torch.sin(torch.arange(length) * (0.02 + 0.3 * torch.rand(count, 1, generator=generator))) * 0.2
    noisy = clean + 0.1 * torch.randn(count, length, generator=generator)
    return [{"noisy": noisy[i], "clean": clean[i], "name": f"file_{i}"} for i in range(count)]


def fit(module, data=None, **options):
    """Train in batches of two, three an epoch, and return the trainer and a Journal."""
    journal = Journal()
    callbacks = [*options.pop("callbacks", []), *([journal] if isinstance(module, AdversarialModule) else [])]
    trainer = make_trainer(callbacks, **options)
    trainer.fit(module, DataLoader(data or items(), 2))
    return trainer, journal


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def weights_in(path):
    return torch.load(path, weights_only=True)["state_dict"]


def test_before_the_start_it_is_supervised_training_and_the_discriminator_is_not_looked_at(tmp_path):
    module = make_module(start_epoch=2)
    _, journal = fit(module, max_epochs=3, callbacks=[SaveAt([6], tmp_path)])
    before, _, at_start = journal.discriminators
    assert same(before, at_start)  # the vectors of the power iteration too
    assert not same(at_start, module.discriminator.state_dict())

    adversarial = weights_in(tmp_path / "step_6.ckpt")
    supervised = SupervisedModule(*make_parts()[:2], scheduler=AT_ONCE)
    fit(supervised, max_epochs=3, callbacks=[SaveAt([6], tmp_path)])
    expected = weights_in(tmp_path / "step_6.ckpt")
    assert same(expected, {key: adversarial[key] for key in expected})


def test_one_step_a_batch_and_a_schedule_for_each_side():
    slower = partial(AdamW, lr=1e-4)
    module = make_module(discriminator_optimizer=slower, scheduler=partial(AT_ONCE, final_lr=1e-6))
    trainer, journal = fit(module, max_epochs=4)
    assert trainer.global_step == len(journal.rows) == 12
    assert [schedule.last_epoch for schedule in module.lr_schedulers()] == [12, 9]
    for optimizer in trainer.optimizers:
        assert optimizer.param_groups[0]["lr"] == pytest.approx(1e-6)


def test_the_run_may_end_within_an_epoch():
    trainer, _ = fit(make_module(), max_epochs=-1, max_steps=5)
    assert trainer.global_step == 5
    assert [schedule.last_epoch for schedule in trainer.lightning_module.lr_schedulers()] == [5, 2]


def test_everything_is_logged_from_the_first_batch_on():
    _, journal = fit(make_module())
    always = {"train/loss", "train/l1", "train/stft", "train/gradient_norm"}
    assert [row.keys() & (always | ADVERSARIAL) for row in journal.rows] == [always] * 3 + [always | ADVERSARIAL] * 3
    for row in journal.rows[3:]:
        parts = 3 * row["train/l1"] + 3 * row["train/stft"] + row["train/adversarial"]
        assert row["train/loss"] == pytest.approx(parts + 2 * row["train/feature_matching"], rel=1e-5)
        both = row["train/discriminator_real"] + row["train/discriminator_fake"]
        assert row["train/discriminator"] == pytest.approx(both, rel=1e-5)
    assert len({row["train/discriminator"] for row in journal.rows[3:]}) == 3


def test_either_side_falls_while_the_other_stands_still(tmp_path):
    options = {"start_epoch": 0, "scheduler": partial(AT_ONCE, final_lr=1e-12)}
    still, moving = (partial(Adam, lr=lr) for lr in (1e-12, 1e-2))
    module = make_module(optimizer=still, discriminator_optimizer=moving, **options)
    _, journal = fit(module, items(length=1024), max_epochs=6, callbacks=[SaveAt([18], tmp_path)])
    curve = [row["train/discriminator"] for row in journal.rows]
    assert curve[-1] < 0.6 * curve[0]

    critic = str(tmp_path / "step_18.ckpt")
    module = make_module(optimizer=moving, discriminator_optimizer=still, discriminator_from=critic, **options)
    _, journal = fit(module, items(length=1024), max_epochs=6)
    for name in ("adversarial", "feature_matching"):
        curve = [row[f"train/{name}"] for row in journal.rows]
        assert sum(curve[-3:]) < 0.9 * sum(curve[:3]), name


def test_both_sides_are_clipped():
    norms = {0: [], 1: []}

    class Watch(pl.Callback):
        def on_train_start(self, trainer, module):
            for side, optimizer in enumerate(trainer.optimizers):
                optimizer.register_step_post_hook(lambda optimizer, *args, side=side: self.note(optimizer, side))

        def note(self, optimizer, side):
            gradients = [p.grad for p in optimizer.param_groups[0]["params"]]
            norms[side].append(float(torch.nn.utils.get_total_norm(gradients)))

    _, journal = fit(make_module(start_epoch=0, gradient_clip_norm=1e-3), callbacks=[Watch()])
    for side, name in enumerate(("train/gradient_norm", "train/discriminator_gradient_norm")):
        assert norms[side] == pytest.approx([1e-3] * 6, rel=1e-2)
        assert all(row[name] > 2e-3 for row in journal.rows)


def test_a_step_of_the_power_iteration_and_of_batch_statistics_each_time_they_are_due():
    module = make_module(start_epoch=0)
    calls = []
    norm = module.discriminator.discriminators[0].layers[0].parametrizations.weight[0]
    norm.register_forward_hook(lambda *args: calls.append(1))
    fit(module, max_epochs=1)
    assert len(calls) == 2 * 3  # for the discriminator's turn and for the generator's
    counts = [b for n, b in module.enhancer.named_buffers() if n.endswith("num_batches_tracked")]
    assert counts and all(count == 3 for count in counts)


@pytest.mark.parametrize(
    "precision",
    [{"precision": "bf16-mixed"}, {"plugins": [MixedPrecision("16-mixed", "cpu")]}],
    ids=["bf16-mixed", "16-mixed"],
)
def test_mixed_precision(precision):
    module = make_module(start_epoch=0)
    initial = {name: weight.clone() for name, weight in module.named_parameters()}
    trainer, journal = fit(module, items(length=2048), **precision)
    assert trainer.global_step == 6
    assert all(torch.tensor(row["train/discriminator"]).isfinite() for row in journal.rows)
    weights = dict(module.named_parameters())
    assert all(weight.isfinite().all() for weight in weights.values())
    moved = {name.split(".")[0] for name in weights if not torch.equal(weights[name], initial[name])}
    assert moved == {"enhancer", "discriminator"}


def test_any_model_and_discriminator():
    enhancer, loss, _ = make_parts(dtln, lstm_size=8, basis_size=16)
    parts = {"scale": MultiScaleDiscriminator(1, [4]), "period": MultiPeriodDiscriminator([2, 3], [4])}
    module = AdversarialModule(enhancer, loss, discriminator=CombinedDiscriminator(parts), start_epoch=0)
    trainer, journal = fit(module, max_epochs=1)
    assert trainer.global_step == 3 and journal.rows[-1].keys() >= ADVERSARIAL


@pytest.mark.parametrize("ema_decay", [None, 0.5], ids=["weights", "ema"])
def test_checkpoint_is_the_generator(tmp_path, ema_decay):
    fit(make_module(start_epoch=0, ema_decay=ema_decay), callbacks=[SaveAt([4], tmp_path)])
    loaded = gtcrn.load(tmp_path / "step_4.ckpt").state_dict()
    saved = torch.load(tmp_path / "step_4.ckpt", weights_only=True)
    assert same(loaded, {key: saved["state_dict"][f"enhancer.{key}"] for key in loaded})
    if ema_decay:
        assert not same(loaded, {key: saved["current_model_state"][f"enhancer.{key}"] for key in loaded})


def resumable(data, callbacks, ckpt_path=None, ema_decay=None):
    """Run three epochs of three steps; the discriminator begins with the second."""
    module = make_module(ema_decay=ema_decay)
    trainer = make_trainer(callbacks, max_epochs=3, num_sanity_val_steps=0, use_distributed_sampler=False)
    trainer.fit(module, datamodule=SpeechDataModule(data), ckpt_path=ckpt_path, weights_only=True)
    return module, trainer


@pytest.mark.parametrize(("stops", "ema_decay"), [((2, 3, 5), None), ((7,), 0.9)], ids=["weights", "ema"])
def test_resumed_run_equals_uninterrupted_one(mini_data, tmp_path, stops, ema_decay):
    """The run is stopped before the discriminator begins, at that step, and later."""
    expected, whole = resumable(mini_data(), [SaveAt(stops, tmp_path)], ema_decay=ema_decay)
    for stop in stops:
        path = str(tmp_path / f"step_{stop}.ckpt")
        assert torch.load(path, weights_only=True)["global_step"] == stop
        resumed, trainer = resumable(mini_data(), [], path, ema_decay=ema_decay)
        assert trainer.global_step == whole.global_step == 9
        assert same(expected.state_dict(), resumed.state_dict())
        for ours, theirs in zip(trainer.optimizers, whole.optimizers, strict=True):
            torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=0, atol=0)
        steps = [[schedule.last_epoch for schedule in module.lr_schedulers()] for module in (expected, resumed)]
        assert steps == [[9, 6]] * 2


@pytest.mark.parametrize("ema_decay", [None, 0.5], ids=["weights", "ema"])
def test_discriminator_from_another_run(tmp_path, caplog, ema_decay):
    caplog.set_level(logging.INFO, logger="gtcrn")
    fit(make_module(start_epoch=0, ema_decay=ema_decay), callbacks=[SaveAt([4], tmp_path)])
    path = str(tmp_path / "step_4.ckpt")
    content = torch.load(path, weights_only=True)
    trained = content["current_model_state" if ema_decay else "state_dict"]  # not their average
    other = make_module(discriminator_from=path)
    ours = other.discriminator.state_dict()
    assert f"discriminator: {len(ours)} tensors loaded from {path}" in caplog.messages
    assert same(ours, {key: trained[f"discriminator.{key}"] for key in ours})
    assert same(other.enhancer.state_dict(), make_parts()[0].state_dict())

    with pytest.raises(
        UserError, match=r"discriminators.0.layers.0.bias is \(4,\) there and \(6,\) here; set training/"
    ):
        make_module(discriminator=MultiScaleDiscriminator(2, [6]), discriminator_from=path)
    with pytest.raises(UserError, match=r"discriminators.1.layers.0.bias is \(4,\) there and missing here"):
        make_module(discriminator=MultiScaleDiscriminator(1, [4, 8, 16]), discriminator_from=path)


def test_discriminator_from_something_else(tmp_path):
    torch.save({"state_dict": {"enhancer.core.weight": torch.ones(1)}}, tmp_path / "supervised.ckpt")
    (tmp_path / "garbage.ckpt").write_bytes(b"no checkpoint")
    for name, reason in {
        "supervised": "holds no discriminator; name a checkpoint of training=adversarial",
        "garbage": "damaged",
        "missing": "no such file",
    }.items():
        with pytest.raises(UserError, match=reason):
            make_module(discriminator_from=str(tmp_path / f"{name}.ckpt"))


@pytest.mark.parametrize(
    ("options", "trainer", "message"),
    [
        ({}, {"accumulate_grad_batches": 2}, "trainer.accumulate_grad_batches=2: .* raise data.batch_size"),
        ({"start_epoch": 2}, {}, "training.start_epoch=2: the run ends before, after 6 steps of 3 an epoch"),
        ({"start_epoch": 1}, {"max_steps": 3}, "training.start_epoch=1: the run ends before, after 3 steps"),
        ({}, {"max_epochs": -1}, "trainer.max_epochs or trainer.max_steps"),
    ],
)
def test_runs_that_cannot_be_are_refused(options, trainer, message):
    with pytest.raises(UserError, match=message):
        fit(make_module(**options), **trainer)


def test_impossible_settings_are_named():
    for key, value in {
        "start_epoch": -1,
        "adversarial_weight": -1,
        "feature_matching_weight": float("nan"),
        "gradient_clip_norm": 0,
    }.items():
        with pytest.raises(UserError, match=f"training.{key}={value}"):
            make_module(**{key: value})
    with pytest.raises(UserError, match="training.discriminator_optimizer.lr=0: must be above 0"):
        make_module(discriminator_optimizer=partial(AdamW, lr=0))


def test_what_is_no_number_stops_the_run_and_leaves_the_discriminator_as_it_was():
    data = items()
    data[0]["noisy"] = data[0]["noisy"] * float("nan")
    module = make_module(start_epoch=0)
    initial = {name: weight.clone() for name, weight in module.discriminator.named_parameters()}
    with pytest.raises(UserError, match="loss is nan at step 0 .*discriminator_fake=nan.*batch: file_0, file_1"):
        fit(module, data)
    assert same(initial, dict(module.discriminator.named_parameters()))

    module = make_module(start_epoch=0)
    next(module.discriminator.parameters()).register_hook(lambda gradient: gradient * float("nan"))
    with pytest.raises(UserError, match="gradient norm is nan at step 0.*training.discriminator_optimizer.lr"):
        fit(module)
