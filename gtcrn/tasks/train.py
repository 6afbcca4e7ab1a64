"""task=train: fit a model, keep its best weights, and score them on the test split."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

import pytorch_lightning as pl
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import Callback, ModelCheckpoint, TQDMProgressBar
from pytorch_lightning.loggers import Logger, WandbLogger
from pytorch_lightning.utilities import rank_zero_only
from tqdm.contrib.logging import logging_redirect_tqdm

from gtcrn import kernels
from gtcrn.data.speech import SpeechData
from gtcrn.errors import Interrupted, UserError, counted
from gtcrn.files import unwritable, write_text
from gtcrn.metrics import METRICS
from gtcrn.metrics.pair import check_metrics
from gtcrn.models.enhancer import Enhancer
from gtcrn.models.initial_weights import initialise
from gtcrn.models.pretrained import BUILDERS, open_checkpoint
from gtcrn.profiling.cost import Cost, measure
from gtcrn.tasks import in_sweep
from gtcrn.tasks.building import (
    build,
    build_data,
    build_enhancer,
    configure_torch,
    differing_knobs,
    model_record,
    trusted,
)
from gtcrn.tasks.evaluate import computable, evaluate_split
from gtcrn.tasks.resolvers import direction
from gtcrn.tasks.resuming import (
    CHECKPOINTS,
    SUMMARY,
    check_continuation,
    comparable,
    find_checkpoint,
    find_run,
    finished_before,
    locked,
)
from gtcrn.training.callbacks import Pace, Progress, StepSeeds, ValidationScores
from gtcrn.training.checkpoints import LAST, BestCheckpoint, LastCheckpoint, WholeFiles, way_on
from gtcrn.training.compiling import is_of_compiler, reason_of
from gtcrn.training.datamodule import SpeechDataModule
from gtcrn.training.freezing import Frozen
from gtcrn.training.qat import QuantizationModule
from gtcrn.training.table import MetricsTable

log = logging.getLogger(__name__)

INITIAL_WEIGHTS = "initial_weights.md"


def run(cfg: DictConfig) -> list[float] | None:
    """Train and return the values of the summary that `objectives=` names, for a search."""
    quieten_lightning()
    configure_torch(cfg)
    check_beginning(cfg)
    run_dir = find_run(cfg)
    try:
        with locked(run_dir):
            if summary := finished_before(cfg, run_dir):
                log.info("finished before: %s", run_dir)
            else:
                summary = train(cfg, run_dir)
    except KeyboardInterrupt as stop:
        raise Interrupted.by(stop, f"interrupted; {way_on(run_dir / CHECKPOINTS / LAST)}") from None
    return objectives(cfg, summary) if rank_zero_only.rank == 0 else None


def train(cfg: DictConfig, run_dir: Path) -> dict:
    """Train what is left of the run, test its best weights, and return the summary, as written to its folder."""
    begin = time.perf_counter()
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    resume, content = find_checkpoint(cfg, run_dir) or (None, {})
    cfg.run_dir, cfg.resume = str(run_dir), resume and str(resume)  # loggers need what resume=auto found

    enhancer = build_enhancer(cfg.model)
    if cfg.init_from and not resume:  # a resumed run has trained its own weights since
        begin_from(cfg, enhancer, run_dir)
    cost = measure(enhancer, timed=False)
    parts = {"loss": build(cfg.loss), "optimizer": build(cfg.optimizer), "scheduler": build(cfg.scheduler)}
    module = build(cfg.training, enhancer=enhancer, **parts, model_record=model_record(cfg))
    log.info(
        "model: %s parameters, %.1f MMACs/s, latency %.0f ms",
        f"{cost.parameters_trainable:,}",
        cost.macs_exact / 1e6,
        cost.latency_ms,
    )
    if (name := model_record(cfg)["build"]) not in BUILDERS:
        log.warning("%s is code outside this framework: whatever reads this run's checkpoints needs trust=true", name)
    frozen = freeze(enhancer, list(cfg.freeze or []))
    if resume:
        check_continuation(module, resume, content)
    pace = Pace()
    last = LastCheckpoint(run_dir / CHECKPOINTS / LAST, cfg.checkpoint_minutes)
    callbacks = [*make_callbacks(cfg, run_dir, module.logged), pace, *frozen, last]
    trial = check_trainer(cfg, callbacks)
    module.check_trainer(trial)
    check_objectives(cfg, trial, cost)
    data = build_data(cfg, enhancer)
    data.setup()
    for line in data.describe():
        log.info(line)
    check_scores(cfg, module, data)
    module.input_level = data.input_level()
    loggers = make_loggers(cfg, run_dir, content.get("global_step", 0))
    # WandbLogger, not our Dashboard, whose import would import W&B where it is not chosen
    dashboard = next((logger for logger in loggers if isinstance(logger, WandbLogger)), None)
    failed = True
    try:
        trainer = build(
            cfg.trainer, logger=loggers, callbacks=callbacks, plugins=[WholeFiles()], default_root_dir=str(run_dir)
        )
        for logger in loggers:
            logger.log_hyperparams(OmegaConf.to_container(cfg, resolve=True) | {"cost": summary_of(cost)})
        device, precise = trainer.strategy.root_device, trainer.precision in ("32-true", "64-true")
        log.info("kernels: %s on %s", kernels.chosen(device, precise and not module.compile_mode), device)
        log_batch(data, trainer)
        if device.type == "cuda":
            torch.set_float32_matmul_precision("high")
            log.info("float32 matrix products and convolutions are computed in TF32, with 10 bits of mantissa")
        log.info("everything of this run goes to %s", run_dir)
        for checkpoint in (cfg.init_from, cfg.training.get("teacher")):
            if dashboard and checkpoint:
                dashboard.use_model(Path(checkpoint))
        if trainer.is_global_zero:
            (run_dir / SUMMARY).unlink(missing_ok=True)  # left by a finished run that is now made longer
        fit(trainer, module, SpeechDataModule(data), resume, last.path)
        summary = {
            "cost": summary_of(cost),
            "steps": trainer.global_step,
            # if only the test was left to do, no metric has been logged in this process
            "validation": {name: float(value) for name, value in trainer.callback_metrics.items()} or last.metrics,
            "best": best_values(trainer),
            "data_wait": pace.share,
            "bad_files": [str(bad) for bad in data.bad_files],
        }
        best = run_dir / CHECKPOINTS / "best.ckpt"
        if not trainer.is_global_zero:
            failed = False
            return summary
        if not best.is_file():
            log.warning("nothing was validated, so there is no best.ckpt; see trainer.check_val_every_n_epoch")
        elif cfg.evaluate:
            log.info("evaluating %s on the test split", best)
            trained = module.trained(best)
            summary["tested_on"] = data.title("test")
            summary["test"] = evaluate_split(trained.to(device), data, "test", cfg.metrics, run_dir / "test", dashboard)
        summary["seconds"] = round(time.perf_counter() - begin, 1)
        write_text(run_dir / SUMMARY, json.dumps(summary, indent=2))
        if dashboard:
            dashboard.log_summary(summary)
            if best.is_file():
                metadata = {name: summary.get(name) for name in ("best", "test", "cost")} | {"data": data.describe()}
                dashboard.log_model(best, comparable(OmegaConf.to_container(cfg, resolve=False)), metadata)
        log_results(run_dir)
        failed = False
        return summary
    finally:
        # also after a crash, because otherwise the next job of a sweep would log into the same W&B run
        if dashboard:
            dashboard.finish(failed)


def check_trainer(cfg: DictConfig, callbacks: list[Callback]) -> pl.Trainer:
    """Return a trainer that does not train.

    Raises UserError, before the data are scanned, if none can be built from these settings on this machine.
    """
    return build(cfg.trainer, logger=[], callbacks=list(callbacks), plugins=[], default_root_dir=cfg.run_dir)


def check_objectives(cfg: DictConfig, trainer: pl.Trainer, cost: Cost) -> None:
    """Raise UserError, before the data are scanned, if `objectives=` names what the summary will not hold."""
    values = [f"best.{callback.monitor}" for callback in chosen_by(trainer)]
    values += [f"cost.{name}" for name in summary_of(cost)]
    if cfg.evaluate:
        conditions = ("noisy", "enhanced", "improvement")
        values += [f"test.{condition}_{metric}" for metric in cfg.metrics.test for condition in conditions]
    if missing := [name for name in cfg.objectives or [] if name not in values]:
        raise UserError(f"objectives: {missing[0]} will not be in the summary; there are {', '.join(values)}")


def check_scores(cfg: DictConfig, module: pl.LightningModule, data: SpeechData) -> None:
    """Raise UserError, before hours are spent, if the training or a metric needs clean speech that the data lack."""
    reference = "clean" in data.dataset("validation")[0]
    if module.needs_clean and not reference:
        raise UserError("these data hold no clean speech, which this training learns from; training=qat needs none")
    if not reference and (needed := sorted(name for name in cfg.metrics.validation if METRICS[name].reference)):
        raise UserError(f"metrics.validation: {', '.join(needed)} need clean speech, and these data hold none")
    if cfg.evaluate:
        computable(cfg.metrics.test, reference="clean" in data.dataset("test")[0])


def fit(
    trainer: pl.Trainer, module: pl.LightningModule, data: SpeechDataModule, resume: Path | None, last: Path
) -> None:
    """Train. Raises UserError or Interrupted in one line that says what stopped the training and how to resume it."""
    try:
        with logging_redirect_tqdm():  # so that log lines appear above the progress bar
            trainer.fit(module, datamodule=data, ckpt_path=resume and str(resume), weights_only=True)
    except (KeyboardInterrupt, SystemExit) as stop:  # Lightning turns Ctrl-C into a silent exit
        message = f"interrupted at step {trainer.global_step}; {way_on(last)}"
        raise Interrupted.by(stop.__context__ or stop, message) from None
    except OSError as error:
        raise UserError(f"{unwritable(error.filename or last, error)}; {way_on(last)}") from error
    except RuntimeError as error:
        if is_of_compiler(error):
            raise UserError(
                f"training.compile={module.compile_mode}: this model can't be compiled ({reason_of(error)}); "
                "set training.compile=null"
            ) from error
        if not str(error).startswith("DataLoader"):
            raise
        for process in multiprocessing.active_children():
            if process.daemon:  # a loader worker: at exit Python would wait for it
                process.kill()
        reason = str(error).splitlines()[0].split(". ")[0]
        raise UserError(
            f"the data stopped coming: {reason}; where memory ran out, lower data.num_workers or data.batch_size, "
            f"where files are slow to come, raise data.worker_timeout={data.data.worker_timeout}; {way_on(last)}"
        ) from error


def log_batch(data: SpeechData, trainer: pl.Trainer) -> None:
    """Log how many crops a step of the optimizer learns from, on all devices together."""
    devices, accumulated = trainer.world_size, trainer.accumulate_grad_batches
    crops = data.batch_size * devices * accumulated
    factors = f"{counted(devices, 'device')} × {accumulated} accumulated × {data.batch_size}"
    log.info("batch: %s = %d crops, %.1f s of audio a step", factors, crops, crops * data.segment_seconds)


def best_values(trainer: pl.Trainer) -> dict[str, float]:
    """Return {metric that checkpoints are chosen by: its best value}."""
    return {
        callback.monitor: float(callback.best_model_score)
        for callback in chosen_by(trainer)
        if callback.best_model_score is not None
    }


def chosen_by(trainer: pl.Trainer) -> list[ModelCheckpoint]:
    """Return the callbacks that keep a checkpoint by the value of a metric."""
    return [callback for callback in trainer.checkpoint_callbacks if getattr(callback, "monitor", None)]


def objectives(cfg: DictConfig, summary: dict) -> list[float] | None:
    """Return the values of the summary that `objectives=` names as `section.key`, None if it names none."""
    if not cfg.objectives:
        return None
    sections = {section: summary.get(section, {}) for section in ("best", "cost", "test")}
    values = {f"{section}.{key}": value for section, part in sections.items() for key, value in part.items()}
    if missing := [name for name in cfg.objectives if name not in values]:
        raise UserError(f"objectives: {missing[0]} is not in the summary; there are {', '.join(values)}")
    return [values[name] for name in cfg.objectives]


def check_beginning(cfg: DictConfig) -> None:
    """Raise `UserError` if `init_from=`, `resume=`, `training=` and `kernels=` do not go together."""
    if cfg.init_from and cfg.resume and cfg.resume != "auto":  # auto may begin a new run
        raise UserError(
            f"init_from={cfg.init_from} with resume={cfg.resume}: resume goes on with a run, init_from begins one; "
            "leave one of them out"
        )
    if not (cfg.init_from or cfg.resume) and get_object(cfg.training._target_) is QuantizationModule:
        raise UserError("training=qat: quantizes a trained model; name its checkpoint, init_from=PATH")
    if cfg.kernels == "numba" and cfg.training.get("compile"):
        raise UserError(
            f"kernels=numba with training.compile={cfg.training.compile}: what is compiled computes with PyTorch's "
            "operators; set kernels=auto, or training.compile=null"
        )


def begin_from(cfg: DictConfig, enhancer: Enhancer, run_dir: Path) -> None:
    """Load the weights of `init_from=`, and report in the log and the run's folder what was loaded."""
    try:
        checkpoint = open_checkpoint(cfg.init_from, trusted(cfg))
        report = initialise(enhancer, checkpoint)
    except UserError as error:
        reason = str(error).removeprefix("checkpoint ").removeprefix(f"{cfg.init_from}: ")
        raise UserError(f"init_from={cfg.init_from}: {reason}") from error
    knobs = differing_knobs(cfg, checkpoint.knobs).items()
    for line in (
        *report.lines(),
        *(f"  model.{key}={chosen} here, {stored} in the file" for key, (stored, chosen) in knobs),
    ):
        log.info(line)
    run_dir.mkdir(parents=True, exist_ok=True)
    write_text(run_dir / INITIAL_WEIGHTS, report.markdown())


def freeze(enhancer: Enhancer, names: list[str]) -> list[Callback]:
    """Return the callback that freezes the named parts of the core, if any are named."""
    if not names:
        return []
    before = trained_parameters(enhancer)
    frozen = Frozen(enhancer.core, names)
    after = trained_parameters(enhancer)
    log.info("freeze=[%s]: %s parameters train, %s are frozen", ",".join(names), f"{after:,}", f"{before - after:,}")
    return [frozen]


def trained_parameters(enhancer: Enhancer) -> int:
    return sum(parameter.numel() for parameter in enhancer.parameters() if parameter.requires_grad)


def quieten_lightning() -> None:
    """Silence Lightning's messages about itself; warnings that matter stay."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",  # small crops are read faster than workers start
        ".*dataloader is not resumable.*",  # it is resumable: see SpeechDataModule
        ".*Checkpoint directory .* exists.*",
        ".*log_every_n_steps.*",
        ".*Experiment logs directory .* exists.*",
        ".*LeafSpec.*",
        ".*anonymous setting.*",
        ".*module.s. in eval mode at the start.*",  # training=qat learns from a float model in eval mode
    ):
        warnings.filterwarnings("ignore", message)
    os.environ.setdefault("WANDB_SILENT", "true")


def make_loggers(cfg: DictConfig, run_dir: Path, steps: int) -> list[Logger]:
    """Return the logger of metrics.csv, and that of `logger=`. steps: those before a run was resumed."""
    table = MetricsTable(run_dir, steps)
    if not cfg.logger:
        return [table]
    chosen = build(cfg.logger)
    try:
        _ = chosen.experiment  # starts the run now, so that a wrong setting is found before the first epoch
    except Exception as error:  # each logger's package raises errors of its own
        raise UserError(f"logger: {' '.join(str(error).split())[:200]}") from error
    return [table, chosen]


def make_callbacks(cfg: DictConfig, run_dir: Path, logged: Sequence[str]) -> list[Callback]:
    """Return the callbacks of a training. logged: the values that the module itself logs in a validation.

    Raises UserError for unknown metrics, and for a monitor that nothing logs.
    """
    checkpoints = run_dir / CHECKPOINTS
    check_metrics(cfg.metrics.validation)
    if shared := sorted(set(logged) & set(cfg.metrics.validation)):
        raise UserError(f"metrics.validation: val/{shared[0]} is a part of the loss too; rename one of the two")
    chosen = {f"callbacks.{name}.": callback for name, callback in cfg.callbacks.items() if callback}
    for key, config in {"": cfg, **chosen}.items():
        monitor = config.get("monitor", cfg.monitor)
        if not monitor.startswith("val/") or monitor.removeprefix("val/") not in (*logged, *cfg.metrics.validation):
            own = ", ".join(f"val/{name}" for name in logged)
            raise UserError(
                f"{key}monitor={monitor}: not logged; use {own} or one of metrics.validation={cfg.metrics.validation}"
            )
    callbacks: list[Callback] = [
        ValidationScores(list(cfg.metrics.validation), cfg.metrics.validation_files, cfg.metrics.workers),
        *map(build, chosen.values()),
        BestCheckpoint(checkpoints, "best", cfg.monitor, direction(cfg.monitor)),
        StepSeeds(cfg.seed),
        Progress(*job_of_sweep(cfg)),
        TQDMProgressBar(refresh_rate=5 if sys.stderr.isatty() else 0, leave=False),  # no bar in log files
    ]
    if "si_sdr" in cfg.metrics.validation and cfg.monitor != "val/si_sdr":
        callbacks.append(BestCheckpoint(checkpoints, "best_si_sdr", "val/si_sdr", "max"))
    return callbacks


def job_of_sweep(cfg: DictConfig) -> tuple[str, int]:
    """Return e.g. `job 2 of 4, `, empty outside a sweep, and how many jobs follow, 0 where they run side by side."""
    if not (in_sweep() and cfg.sweep.jobs):
        return "", 0
    hydra = HydraConfig.get()
    one_by_one = hydra.runtime.choices["hydra/launcher"] == "basic"
    return f"job {hydra.job.num + 1} of {cfg.sweep.jobs}, ", cfg.sweep.jobs - hydra.job.num - 1 if one_by_one else 0


def summary_of(cost: Cost) -> dict:
    return {
        "parameters_trainable": cost.parameters_trainable,
        "parameters_all": cost.parameters_all,
        "mmacs_exact": cost.macs_exact / 1e6,
        "mmacs_thop": cost.macs_thop / 1e6,
        "latency_ms": cost.latency_ms,
        "lookahead_ms": cost.lookahead_ms,
    }


def log_results(run_dir: Path) -> None:
    """Log which of the run's files hold what."""
    log.info("\n%s", run_dir)
    for name, what in (
        ("checkpoints/best.ckpt", "the best weights; load with gtcrn.load or ckpt="),
        ("checkpoints/last.ckpt", "to go on: resume="),
        ("test", "enhanced audio, scores.csv, tables and spectrograms of the test split"),
        ("validation", "clips while training, audio and spectrograms"),
        ("metrics.csv", "every logged value"),
        (INITIAL_WEIGHTS, "what init_from= loaded, and what not"),
        ("summary.json", "the results in one file"),
    ):
        if (run_dir / name).exists():
            log.info("  %-24s %s", name, what)
