"""Quantization-aware training lowers the loss, resumes exactly, and its checkpoints hold the integers to the bit."""

import copy
from functools import partial

import pytest
import pytorch_lightning as pl
import soundfile
import torch
from fixtures.commands import compose
from fixtures.systems import wake
from torch.optim import Adam
from torch.utils.data import DataLoader

import gtcrn
from gtcrn.errors import UserError
from gtcrn.export.writers.flatbuffer import Writer
from gtcrn.losses import Loss, OutputSNR
from gtcrn.losses.waveform import output_snr
from gtcrn.models import dtln, light_v3, micro
from gtcrn.models import gtcrn as gtcrn_model
from gtcrn.models.pretrained import open_checkpoint
from gtcrn.quantization.checkpoint import holds_integers, load_simulation, trained_network
from gtcrn.tasks import train
from gtcrn.training.callbacks import ValidationScores
from gtcrn.training.datamodule import SpeechDataModule
from gtcrn.training.qat import QuantizationModule
from gtcrn.training.schedulers import warmup_cosine
from gtcrn.training.supervised import SupervisedModule

KNOBS = {"channels": 4, "stacks": 1, "blocks": 1}
RECORD = {"build": "gtcrn.models.micro.build", "knobs": KNOBS}


def module(weights=0, **options):
    torch.manual_seed(weights)
    enhancer = wake(micro.build(**KNOBS))
    options = {
        "optimizer": partial(Adam, lr=6e-4),
        "scheduler": partial(warmup_cosine, warmup_steps=2, final_lr=0.0),
        "model_record": RECORD,
    } | options
    return QuantizationModule(enhancer, Loss({"output_snr": OutputSNR(1)}), **options)


def loader(wave):
    return DataLoader([{"noisy": wave, "clean": wave, "name": f"file_{i}"} for i in range(2)], 2)


def fit(trained, train_data, validation=None, callbacks=(), ckpt_path=None, **options):
    trainer = pl.Trainer(
        accelerator="cpu", callbacks=list(callbacks), logger=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, use_distributed_sampler=False,
        **{"max_epochs": 1, "enable_checkpointing": bool(callbacks)} | options,
    )  # fmt: skip
    if isinstance(train_data, SpeechDataModule):
        trainer.fit(trained, datamodule=train_data, ckpt_path=ckpt_path, weights_only=True)
    else:
        trainer.fit(trained, train_data, validation)
    return trainer


@pytest.fixture
def data(mini_data):
    return mini_data()


def snr(trained, wave):
    """Return the output SNR in dB of the integers against the float model."""
    with torch.no_grad():
        return output_snr(trained.estimate(wave).wave, trained.float_output(wave).wave).mean().item()


@pytest.mark.filterwarnings("ignore")
def test_integers_come_nearer_to_the_float_model_which_stays(data):
    trained = module()
    noisy = next(iter(data.validation_loader()))["noisy"]
    before = copy.deepcopy(trained.enhancer.state_dict())
    fit(trained, SpeechDataModule(data), max_epochs=-1, max_steps=1)  # calibrated, and hardly trained
    begun = snr(trained, noisy)
    fit(trained, SpeechDataModule(data), max_epochs=-1, max_steps=20)
    assert snr(trained, noisy) > begun + 0.3
    assert all(torch.equal(value, before[key]) for key, value in trained.enhancer.state_dict().items())


@pytest.mark.filterwarnings("ignore")
def test_calibration_takes_no_batches_from_training(mini_data):
    """Persistent workers begin the epoch, of three steps, again."""
    assert fit(module(calibration_batches=2), SpeechDataModule(mini_data(num_workers=1))).global_step == 3


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


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("ema_decay", [None, 0.9], ids=["weights", "ema"])
def test_resumed_run_equals_uninterrupted_one(data, tmp_path, ema_decay):
    """This includes ranges and levels. The run stops in the second epoch of three steps."""
    whole, stopped = module(ema_decay=ema_decay), module(ema_decay=ema_decay)
    fit(whole, SpeechDataModule(data), callbacks=[pl.callbacks.Checkpoint()], max_epochs=2)
    with pytest.raises(Stop):
        fit(stopped, SpeechDataModule(data), callbacks=[Journal(4, tmp_path)], max_epochs=2)
    resumed = module(weights=1, ema_decay=ema_decay)
    last = str(tmp_path / "stopped.ckpt")
    trainer = fit(resumed, SpeechDataModule(data), callbacks=[pl.callbacks.Checkpoint()], ckpt_path=last, max_epochs=2)
    assert trainer.global_step == 6
    for (name, a), b in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


@pytest.mark.filterwarnings("ignore")
def test_a_checkpoint_holds_the_integers_to_the_bit_and_the_float_model(data, tmp_path):
    trained = module()
    fit(trained, SpeechDataModule(data)).save_checkpoint(tmp_path / "qat.ckpt")
    noisy = next(iter(data.validation_loader()))["noisy"]
    checkpoint = open_checkpoint(tmp_path / "qat.ckpt")
    assert holds_integers(checkpoint)
    network = trained_network(checkpoint, checkpoint.enhancer())
    assert Writer(network).write().content == Writer(trained.network).write().content
    with torch.no_grad():
        assert torch.equal(trained.trained(tmp_path / "qat.ckpt")(noisy)[0], trained.estimate(noisy).wave)
        assert torch.equal(gtcrn.load(tmp_path / "qat.ckpt")(noisy)[0], trained.float_output(noisy).wave)


@pytest.mark.filterwarnings("ignore")
def test_a_run_is_validated_at_its_last_step_wherever_that_is(data, caplog):
    trained = module()
    with caplog.at_level("INFO"):
        trainer = fit(trained, SpeechDataModule(data), max_epochs=-1, max_steps=2, check_val_every_n_epoch=None,
                      val_check_interval=100, callbacks=[ValidationScores(["si_sdr"], 1, 1)],
                      enable_checkpointing=False)  # fmt: skip
    noisy = next(iter(data.validation_loader()))["noisy"]
    assert trainer.global_step == 2
    assert trainer.callback_metrics["val/snr"].item() == pytest.approx(snr(trained, noisy), abs=1e-4)
    assert f"step 2: loss {-snr(trained, noisy):.3f}  snr {snr(trained, noisy):.3f}  si_sdr " in caplog.text


def test_output_snr_is_that_of_a_quiet_signal_too():
    target = torch.randn(3, 4000, generator=torch.Generator().manual_seed(0))
    loud = output_snr(target + 0.1 * target.roll(1, 1), target)
    torch.testing.assert_close(loud, torch.full((3,), 20.0), atol=0.01, rtol=0)
    quiet = 1e-3 * target
    torch.testing.assert_close(output_snr(quiet + 0.1 * quiet.roll(1, 1), quiet), loud, atol=0.01, rtol=0)
    assert output_snr(target, target).max() <= 50.01


def test_levels_are_random_and_silence_stays_silent():
    quantizing = module(level=[-30, -20], seed=3)
    noisy = torch.randn(64, 8000, generator=torch.Generator().manual_seed(0))
    noisy[0] = 0
    loud = quantizing.at_random_levels(noisy)
    levels = 20 * loud[1:].square().mean(1).sqrt().log10()
    assert -30.01 < levels.min() < -29 and -21 < levels.max() < -19.99
    assert not loud[0].any()
    assert torch.equal(loud, quantizing.at_random_levels(noisy))
    assert not torch.equal(loud, module(level=[-30, -20], seed=4).at_random_levels(noisy))
    click = torch.zeros(1, 8000)
    click[0, 5] = 0.1
    assert quantizing.at_random_levels(click).abs().max() == 1  # and no louder


@pytest.mark.filterwarnings("ignore")
def test_what_cannot_be_calibrated_or_simulated_is_named():
    with pytest.raises(UserError, match="the first training batches are silent"):
        fit(module(), loader(torch.zeros(4096)))
    with pytest.raises(UserError, match="trainer.precision=bf16-mixed: integers are simulated in 32-true"):
        fit(module(), loader(torch.randn(4096)), precision="bf16-mixed")


@pytest.mark.parametrize(
    ("enhancer", "message"),
    [
        (gtcrn_model.build, "GTCRN has no form in integers"),
        (light_v3.build, "LightV3 has no form in integers"),
        (dtln.build, "DTLN has no form in integers"),
        (lambda: micro.build(causal=False), "this model cannot stream"),
    ],
    ids=["gtcrn", "light_v3", "dtln", "not causal"],
)
def test_models_without_integers_are_named(enhancer, message):
    with pytest.raises(UserError, match=message) as error:
        QuantizationModule(enhancer(), Loss({"output_snr": OutputSNR(1)}))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimizer": partial(Adam, lr=0)}, "optimizer.lr=0"),
        ({"scale_lr": -1.0}, "training.scale_lr=-1.0: must be a number above 0"),
        ({"rho": 0}, "training.rho=0: must be 1 or more"),
        ({"calibration_batches": 0}, "training.calibration_batches=0"),
        ({"level": [-10, -20]}, r"training.level=\[-10, -20\]: must be two levels in dBFS"),
        ({"level": [-10]}, r"training.level=\[-10\]"),
    ],
    ids=str,
)
def test_impossible_settings_are_named(options, message):
    with pytest.raises(UserError, match=message):
        module(**options)


def test_checkpoints_without_integers_are_named(tmp_path):
    enhancer = micro.build(**KNOBS)
    state = {f"enhancer.core.{key}": value for key, value in enhancer.core.state_dict().items()}
    torch.save({"state_dict": state, "gtcrn": {"model": RECORD}}, tmp_path / "float.ckpt")
    checkpoint = open_checkpoint(tmp_path / "float.ckpt")
    assert not holds_integers(checkpoint)
    with pytest.raises(UserError, match="holds no integers; name a checkpoint of training=qat"):
        trained_network(checkpoint, enhancer)
    record = {"model": RECORD, "integers": {"bits": 8, "rho": 20}}
    torch.save({"state_dict": state, "gtcrn": record}, tmp_path / "damaged.ckpt")
    with pytest.raises(UserError, match="integers of another version of this framework") as error:
        load_simulation(tmp_path / "damaged.ckpt")
    assert "\n" not in str(error.value)


composed = partial(compose, "task=train", "training=qat")


def test_steps_are_steps_whatever_the_corpus():
    cfg = composed("data=dns", "steps=7")
    assert (cfg.trainer.max_steps, cfg.trainer.max_epochs, cfg.monitor) == (7, -1, "val/snr")
    assert list(cfg.loss.terms) == ["output_snr"]
    # the corpus's schedule does not apply to this training
    assert (cfg.optimizer.lr, cfg.scheduler.warmup_steps) == (6e-4, 20)
    assert composed("optimizer.lr=1e-3").optimizer.lr == 1e-3


def test_a_run_begins_with_a_trained_model():
    with pytest.raises(UserError, match="training=qat: .* name its checkpoint, init_from=PATH"):
        train.check_beginning(composed())
    train.check_beginning(composed("init_from=micro.ckpt"))
    train.check_beginning(composed("resume=a/checkpoints/last.ckpt"))


def test_noisy_speech_alone_is_enough_for_this_training_and_for_no_scores(tmp_path):
    for name in "ab":
        soundfile.write(tmp_path / f"{name}.wav", torch.randn(8000).numpy() / 10, 16000)
    noisy = ["data=noisy", f"data.root={tmp_path}", "init_from=micro.ckpt"]
    cfg = composed(*noisy)
    data = train.build_data(cfg, micro.build(**KNOBS))
    data.setup()
    train.check_scores(cfg, module(), data)
    with pytest.raises(UserError, match="these data hold no clean speech, which this training learns from"):
        train.check_scores(cfg, SupervisedModule(micro.build(**KNOBS), OutputSNR(1)), data)
    with pytest.raises(UserError, match="metrics.validation: stoi need clean speech, and these data hold none"):
        train.check_scores(composed(*noisy, "metrics.validation=[stoi]"), module(), data)
