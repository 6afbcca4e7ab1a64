"""The keys that every task reads itself, with their types and ranges; what a group builds says its own in `_target_`.

A class is a section of the configuration, and `gtcrn.tasks.checking` holds the composed one against it.
"""

from __future__ import annotations

from math import inf
from typing import Annotated, Any, Literal, NamedTuple, get_type_hints


class Bound(NamedTuple):
    """The smallest number that is allowed, or, if it is not `included`, above which one must lie, and the largest."""

    least: float
    included: bool = True
    most: float = inf


class Built(NamedTuple):
    """A part that is built from the configuration, and the class of what is built."""

    of: str


class Section:
    """Keys that belong together, by name with their types."""


Count = Annotated[int, Bound(1)]
Index = Annotated[int, Bound(0)]
Seed = Annotated[int, Bound(0, most=2**32 - 1)]  # as numpy takes it
MANY = 1024  # processes or threads: more than a machine has, fewer than it stumbles over
Positive = Annotated[float, Bound(0, included=False)]
Limit = Annotated[float, Bound(0)] | None  # dB
Core = Literal["m4f", "m7", "m33", "m55", "rv32imc"]  # of `gtcrn.runtime.bare_metal.emulation`
Unused = Annotated[Any, "unused"]  # a group that this task leaves alone

Model = Annotated[dict, Built("gtcrn.models.enhancer.Enhancer")]
Data = Annotated[dict, Built("gtcrn.data.speech.SpeechData")]


# Keys of which their targets, or what these hand them on to, take numbers at which they fail later: by class and key
STRICTER = {
    ("gtcrn.training.callbacks.EarlyStopping", "patience"): Count,
    ("gtcrn.training.callbacks.ValidationClips", "count"): Index,
    ("gtcrn.training.callbacks.ValidationClips", "every"): Count,
    ("gtcrn.data.speech.SpeechData", "seed"): Seed,
    ("gtcrn.data.preparation.rooms.Rooms", "seed"): Seed,
    ("gtcrn.data.speech.SpeechData", "num_workers"): Annotated[int, Bound(0, most=MANY)] | Literal["auto"],
    ("gtcrn.data.speech.SpeechData", "prefetch"): Annotated[int, Bound(1, most=MANY)],
    ("torch.optim.Optimizer", "lr"): Positive,
    ("torch.optim.Optimizer", "weight_decay"): Annotated[float, Bound(0)],
    ("torch.optim.Optimizer", "betas"): tuple[float, float],
    ("pytorch_lightning.Trainer", "accumulate_grad_batches"): Count,
    ("pytorch_lightning.Trainer", "check_val_every_n_epoch"): Count | None,
    ("pytorch_lightning.Trainer", "max_epochs"): Count | Literal[-1] | None,
    ("pytorch_lightning.Trainer", "max_steps"): Count | Literal[-1],
    ("pytorch_lightning.Trainer", "limit_train_batches"): Positive | None,
}


class SweepKeys(Section):
    resume: bool | str
    jobs: Count | None


class PathsKeys(Section):
    outputs: str
    cache: str | None
    vctk_demand: Any
    dns_pairs: Any
    dns_speech: Any
    dns_noise: Any
    dns_rir: Any
    real_recordings: Any


class MetricsKeys(Section):
    validation: list[str]
    validation_files: Count
    test: list[str]
    test_files: Count | None
    workers: Annotated[int, Bound(1, most=MANY)] | Literal[-1]


class RowsKeys(Section):
    rows: dict


class Keys(Section):
    """The keys that every task has."""

    task: str
    model: Any  # beside ckpt= it may name what that holds, see `gtcrn.tasks.building.load_checkpoint`
    loss: Unused
    data: Unused
    training: Unused
    optimizer: Unused
    scheduler: Unused
    metrics: Unused
    trainer: Unused
    callbacks: Unused
    logger: Unused
    seed: Seed
    padding: Literal["zeros", "reflect", "none"] | None
    threads: Annotated[int, Bound(1, most=MANY)]
    kernels: Literal["auto", "numba", "torch"]
    trust: bool
    imports: list[str]
    run_dir: str
    run_name: str
    paths: PathsKeys
    sweep: SweepKeys


class TrainKeys(Keys):
    model: Model
    loss: Annotated[dict, Built("gtcrn.losses.Loss")]
    data: Data
    training: Annotated[dict, Built("gtcrn.training.supervised.SupervisedModule")]
    optimizer: Annotated[dict, Built("torch.optim.Optimizer")]
    scheduler: Annotated[dict, Built("torch.optim.lr_scheduler.LRScheduler")]
    metrics: MetricsKeys
    trainer: Annotated[dict, Built("pytorch_lightning.Trainer")]
    callbacks: dict[str, Annotated[dict, Built("pytorch_lightning.Callback")] | None]
    logger: Annotated[dict, Built("pytorch_lightning.loggers.Logger")] | None
    resume: str | None
    init_from: str | None
    freeze: list[str] | None
    monitor: str
    checkpoint_minutes: Positive
    evaluate: bool
    objectives: list[str] | None


class EvaluateKeys(Keys):
    model: Model
    data: Data
    metrics: MetricsKeys
    ckpt: str | None
    enhanced: str | None
    clean: str | None
    noisy: str | None
    pairs: str | None
    split: Literal["test", "validation"]
    forget_every: Count | None
    attenuation_limit_db: Limit
    device: str


class EnhanceKeys(Keys):
    ckpt: str
    attenuation_limit_db: Limit
    level: Literal["as_is", "normalise"]
    input: str
    output: str
    device: str


class ExportKeys(Keys):
    ckpt: str
    format: str
    quantize: str | None
    calibration: str | None
    device_files: bool
    strict: bool
    flash_kib: Positive | None
    ram_kib: Positive | None
    core: Core
    output: str | None
    name: str | None
    audio: str | None
    licence: str | None
    origin: str | None


class ProfileKeys(Keys):
    model: Model | RowsKeys
    data: Any  # profile=data checks it
    loss: Annotated[dict, Built("gtcrn.losses.Loss")]
    optimizer: Annotated[dict, Built("torch.optim.Optimizer")]
    metrics: MetricsKeys
    profile: Annotated[dict, Built("")]
    ckpt: str | None


class PrepareKeys(Keys):
    data: Data
    prepare: Annotated[dict, Built("")]
    input: str | None
    output: str | None
    speaker: str | None
    max_files: Count | None
    workers: Annotated[int, Bound(1, most=MANY)] | None
    shard_index: Index
    shard_count: Count
    skip_existing: bool
    on_bad_file: Literal["fail", "skip"]
    cache_dir: str | None


class InspectKeys(Keys):
    data: Data
    split: Literal["train", "validation", "test"]
    n: Count
    epoch: Index
    index: Index | list[Index]


class DownloadKeys(Keys):
    model: Unused
    download: Annotated[dict, Built("gtcrn.data.download.CorpusDownload")]
    output: str


class WeightsKeys(Keys):
    ckpt: str | None
    output: str | None


class ReportKeys(Keys):
    model: Unused
    runs: str | list[str] | None
    metric: str | None
    reference: str | None
    output: str | None
    page: bool


class ServeKeys(Keys):
    model: Unused
    models: str | list[str]
    attenuation_limit_db: Limit
    port: Annotated[int, Bound(0, most=65535)]
    browser: bool


class LiveKeys(Keys):
    ckpt: str
    attenuation_limit_db: Limit
    devices: Literal["list"] | None
    input_device: int | str | None
    output_device: int | str | None
    device_rate: Count | None
    block: Count | None
    bypass: bool
    seconds: Positive | None


def declared(task: str) -> dict[str, Any]:
    """Return the types of a task's keys, by name; {} if there is no such task."""
    sections = {section.__name__.removesuffix("Keys").lower(): section for section in Keys.__subclasses__()}
    section = sections.get(task)
    return get_type_hints(section, include_extras=True) if section else {}
