"""Wrong overrides, derived from the configuration: every key of every task gets values that it can't have.

`cases` and `check` are a part of the campaign of `hostile.py`. An override with `Override.wrong` is wrong by its kind
alone (a word or a list for a number, a misspelt choice, a key that does not exist); a value such as 0, -1 or null may
be valid for a key, and must then be accepted without a traceback.
"""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import soundfile
import torch
from children import Wrong
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict, read_write

from gtcrn import tasks
from gtcrn.errors import UserError
from gtcrn.export import proof
from gtcrn.export.exporting import Export
from gtcrn.export.metadata import weights_of
from gtcrn.models import micro
from gtcrn.models.pretrained import open_checkpoint

CONF = Path(__file__).parents[1] / "conf"
TINY = dict(channels=4, stacks=1, blocks=1, erb_low_bins=9, erb_bands=8, n_fft=64, hop_length=32)
HUGE = 10**12

_DEMO = "data=demo data.train_files=8 data.validation_files=2 data.test_files=2 data.segment_seconds=0.5"
_TRAIN = (
    "model=micro model.channels=4 model.stacks=1 model.blocks=1 trainer.max_epochs=1 trainer.accelerator=cpu "
    "metrics.validation=[stoi] metrics.test=[stoi] metrics.workers=1 monitor=val/loss trainer.limit_train_batches=2 "
)
_MIXED = f"{_TRAIN} data.speech=HERE/speech data.noise=HERE/noise data.fixed_items=2 data.fixed_seconds=1 " + (
    "data.held_out=0.2 data.segment_seconds=0.5"
)
_MODEL = "ckpt=HERE/micro.ckpt"

# The overrides with which a task ends quickly, by the name of the setting; HERE is the folder of `materials`.
SETTINGS = {
    "train": f"task=train {_TRAIN} {_DEMO} logger=csv",
    "train wandb": f"task=train {_TRAIN} {_DEMO} logger=wandb",
    "train tensorboard": f"task=train {_TRAIN} {_DEMO} logger=tensorboard training/masks=specaugment loss=hybrid",
    "train adversarial": f"task=train {_TRAIN} {_DEMO} logger=csv training=adversarial training.start_epoch=0 "
    "training/discriminator=small loss=multires_stft",
    "train distillation": f"task=train {_TRAIN} {_DEMO} logger=csv training=distillation loss=ri_mag "
    "training.teacher=HERE/micro.ckpt",
    "train dns": f"task=train {_MIXED} data=dns logger=csv loss=sisdr",
    "train timbre": f"task=train {_MIXED} data=timbre logger=csv loss=timbre data.sample_rate=16000",
    "train finetune": f"task=train {_MIXED} data=finetune data.replay_speech=HERE/speech data.replay_noise=HERE/noise "
    "logger=csv loss=snr",
    "train vctk_demand": f"task=train {_TRAIN} data=vctk_demand data.root=HERE/pairs logger=csv data.num_workers=0 "
    "data.validation_speakers=[a] data.segment_seconds=0.5",
    "train dns_pairs": f"task=train {_TRAIN} data=dns_pairs data.root=HERE/dns_pairs logger=csv data.num_workers=0 "
    "data.segment_seconds=0.5 data.validation_share=0.3",
    "evaluate": f"task=evaluate {_MODEL} {_DEMO} metrics.test=[stoi] metrics.workers=1",
    "evaluate files": "task=evaluate enhanced=HERE/pairs/noisy clean=HERE/pairs/clean metrics.test=[stoi] "
    "metrics.workers=1",
    "enhance": f"task=enhance {_MODEL} input=HERE/pairs/noisy output=HERE/enhanced",
    "export": f"task=export {_MODEL} format=onnx_wave",
    "profile": "task=profile model=micro",
    "profile training": "task=profile profile=training model=micro model.channels=4 model.stacks=1 model.blocks=1 "
    "profile.threads=[1] profile.batch=[1] profile.seconds=[0.5] profile.width=[1] profile.rounds=1",
    "profile data": f"task=profile profile=data {_DEMO} profile.manifest_rows=1000",
    "profile latency": f"task=profile profile=latency {_MODEL} profile.files=[HERE/micro.onnx] profile.seconds=0.2",
    "profile quantization": f"task=profile profile=quantization {_MODEL} profile.calibration=HERE/speech "
    "profile.pairs=HERE/pairs metrics.workers=1",
    **{
        f"prepare {step}": f"task=prepare prepare={step} input=HERE/speech output=HERE/{step} workers=1"
        for step in ("resample", "segment", "filter", "pack")
    },
    "prepare manifest": "task=prepare prepare=manifest input=HERE/speech output=HERE/speech.arrow workers=1",
    "prepare degrade": f"task=prepare prepare=degrade {_DEMO} output=HERE/degrade workers=1",
    "prepare rooms": "task=prepare prepare=rooms output=HERE/rooms prepare.items=1 workers=1",
    "inspect": f"task=inspect {_DEMO} n=1",
    "download": "task=download output=HERE/corpus download.url=http://127.0.0.1:9 download.retries=1 "
    "download.timeout=1",
    "report": "task=report runs=HERE/run page=false",
    "serve": "task=serve models=[HERE/none.onnx] browser=false",
    "live": f"task=live {_MODEL} devices=list",
}

# The groups that a task builds something of; keys of others have no effect on it.
GROUPS = {
    "train": (
        "model",
        "loss",
        "data",
        "training",
        "optimizer",
        "scheduler",
        "metrics",
        "trainer",
        "callbacks",
        "logger",
    ),  # fmt: skip
    "evaluate": ("data", "metrics"),
    "profile": ("model", "profile"),
    "profile training": ("model", "loss", "optimizer", "profile"),
    "profile data": ("data", "profile"),
    "profile latency": ("profile",),
    "profile quantization": ("profile",),
    "prepare": ("prepare",),
    "prepare degrade": ("prepare", "data"),
    "inspect": ("data",),
    "download": ("download",),
}
# Keys that take any word: paths that are created, corpora by name with weights, devices in words
ANY_WORD = {"run_dir", "run_name", "name", "data.root", "data.cache_dir", "cache_dir", "output", "origin", "licence"}
ANY_WORD |= {f"data.{key}" for key in ("speech", "noise", "rir", "replay_speech", "replay_noise", "recipe.target")}
ANY_WORD |= {"trainer.devices"}


@dataclass(frozen=True)
class Override:
    """An override of a command line. setting: a key of SETTINGS. text: as typed. wrong: whether it must be refused."""

    setting: str
    text: str
    wrong: bool


def overrides(setting: str) -> Iterator[Override]:
    """Yield wrong and doubtful overrides of every key and group that this setting of a task makes use of."""
    cfg = composed(setting)
    built = GROUPS.get(setting, GROUPS.get(setting.split()[0], ()))
    groups = {key for key, value in cfg.items() if OmegaConf.is_dict(value)}
    for group in built:
        for text, wrong in ((f"{group}=null", False), (f"~{group}", group != "logger"), (f"{group}=nosuch", True)):
            yield Override(setting, text, wrong)
        yield Override(setting, f"+{group}.nosuch=1", True)
        if "_target_" in cfg[group]:
            yield Override(setting, f"{group}._target_=gtcrn.nosuch.Thing", True)
            yield Override(setting, f"{group}._target_=os.getcwd", True)
            yield Override(setting, f"~{group}._target_", True)
    yield Override(setting, "nosuch=1", True)
    yield Override(setting, "+nosuch=1", True)
    for key in cfg:
        if key not in groups - set(built) and key != "task":
            yield from (Override(setting, text, wrong) for text, wrong in _of(cfg, key))


def _of(config: DictConfig | ListConfig, key: str, prefix: str = "") -> Iterator[tuple[str, bool]]:
    """Yield (text, wrong) of overrides of a key and of all keys below it."""
    name, value = f"{prefix}{key}", config[key]
    if OmegaConf.is_dict(value):
        for below in value:
            yield from _of(value, below, f"{name}.")
        return
    if key in ("_target_", "_partial_"):
        return
    is_list = isinstance(value, ListConfig)
    number = type(value) in (int, float)
    yield f"{name}={{a:1}}", name not in ANY_WORD and value is not None
    yield f"{name}=[[1]]", value is not None and name not in ANY_WORD
    yield f"{name}=soon", name not in ANY_WORD and (number or type(value) is bool or is_list)
    yield f"{name}=-1", type(value) is bool or is_list
    yield f"{name}=nan", number or type(value) is bool or is_list
    for doubtful in ("0", "null", "''", "1.5", str(HUGE), "true"):
        yield f"{name}={doubtful}", False
    yield f"~{name}", False


@cache
def materials() -> Path:
    """Return a folder of this process with recordings, pairs, a checkpoint and a finished run."""
    here = Path(tempfile.mkdtemp(prefix="overrides-"))
    rng = np.random.default_rng(0)
    places = [f"{folder}/{name}" for folder in ("speech", "noise", "pairs/noisy", "pairs/clean") for name in _NAMES]
    places += [f"dns_pairs/noisy/x_reader_0{n}_snr5_fileid_{n}.wav" for n in range(6)]
    places += [f"dns_pairs/clean/clean_fileid_{n}.wav" for n in range(6)]
    for place in places:
        path = here / place
        path.parent.mkdir(parents=True, exist_ok=True)
        wave = np.sin(np.arange(24000) / 9) * (np.arange(24000) % 8000 < 4000) if "clean" in place else 0
        soundfile.write(path, 0.1 * wave + rng.normal(0, 0.02, 24000), 16000)
    torch.manual_seed(0)
    weights = {f"enhancer.core.{key}": value for key, value in micro.build(**TINY).core.state_dict().items()}
    record = {"model": {"build": "gtcrn.models.micro.build", "knobs": TINY}}
    torch.save({"gtcrn": record, "state_dict": weights}, here / "micro.ckpt")
    (here / "run/.hydra").mkdir(parents=True)
    (here / "run/.hydra/config.yaml").write_text("task: train\nmodel:\n  r: 8\nseed: 1\n")
    (here / "run/summary.json").write_text('{"test": {"enhanced_pesq_wb": 2.0}, "cost": {"mmacs_exact": 1.0}}')
    (here / "run/test").mkdir()
    (here / "run/test/scores.csv").write_text("name,snr,enhanced_pesq_wb,failures\nx,5,2.0,\n")
    return here


_NAMES = tuple(f"{speaker}_{number}.wav" for speaker in "abcdef" for number in range(2))


@cache
def exported() -> None:
    """Export the checkpoint to an ONNX file beside it, which takes seconds."""
    opened = open_checkpoint(materials() / "micro.ckpt")
    recording = proof.recording(None, opened.enhancer().sample_rate)
    Export(opened.enhancer(), "onnx_wave", "wave", "micro", weights_of(opened), recording).write(materials())


def command_line(setting: str, run_dir: str = "HERE/out") -> list[str]:
    line = [word.replace("HERE", str(materials())) for word in f"{SETTINGS[setting]} run_dir={run_dir}".split()]
    cache_dir = materials() / "cache"
    return [*line, f"data.cache_dir={cache_dir}"] + ([f"cache_dir={cache_dir}"] if "prepare" in setting else [])


def composed(setting: str, *texts: str, run_dir: str = "HERE/out") -> DictConfig:
    """Return the configuration of a setting with overrides, as a process with this command line has it."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", [*command_line(setting, run_dir), *texts], return_hydra_config=True)
        HydraConfig.instance().set_config(cfg)
    with read_write(cfg), open_dict(cfg):
        del cfg["hydra"]
    return cfg


def cases(count: int, seed: int) -> Iterator[Override]:
    """Yield `count` of all wrong and doubtful overrides, equally many of every setting; all if there are no more."""
    drawn = [override for setting in SETTINGS for override in overrides(setting)]
    random.Random(seed).shuffle(drawn)
    yield from drawn[:count]


def check(case: Override) -> None:
    """Let the framework run with the override; raise Wrong if it must be refused and is not."""
    try:
        cfg = composed(case.setting, case.text, run_dir=tempfile.mkdtemp(dir=materials()))
    except (HydraException, ValueError) as error:  # which `gtcrn.tasks.command_line` reports
        raise UserError(str(error).splitlines()[0]) from error
    os.chdir(materials())
    if "micro.onnx" in SETTINGS[case.setting]:
        exported()
    try:
        tasks.checked(cfg).run(cfg)
    except Exception as error:
        if line := tasks.mendable(error):
            raise UserError(line) from error
        raise
    if case.wrong:
        raise Wrong(f"accepted: {case.text}")
