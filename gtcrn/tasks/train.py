"""task=train: fit, keep the best weights, score them on the test split."""

from __future__ import annotations

import csv
import json
import logging
import os
import time
import warnings
from datetime import timedelta
from pathlib import Path

import pytorch_lightning as pl
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import Callback, LearningRateMonitor, ModelCheckpoint, TQDMProgressBar
from pytorch_lightning.loggers import CSVLogger, Logger, WandbLogger
from tqdm.contrib.logging import logging_redirect_tqdm

from gtcrn.analysis.cost import Cost, measure
from gtcrn.errors import UserError
from gtcrn.metrics.pair import check_metrics
from gtcrn.models.pretrained import RECORD, load, read_checkpoint
from gtcrn.tasks.building import build, build_data, configure_torch, model_record
from gtcrn.tasks.evaluate import computable, evaluate_split
from gtcrn.training.callbacks import DataWait, ValidationClips, ValidationScores
from gtcrn.training.data import SpeechDataModule

log = logging.getLogger(__name__)


def run(cfg: DictConfig) -> None:
    begin = time.perf_counter()
    quieten_lightning()
    configure_torch(cfg)
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    resume = find_resume(cfg)
    # a resumed run goes on in its own folder, so that its best weights and its curves stay together
    run_dir = resume.resolve().parents[1] if resume else Path(cfg.run_dir)

    enhancer = build(cfg.model)
    module = build(cfg.training, enhancer=enhancer, loss=build(cfg.loss), model_record=model_record(cfg))
    cost = measure(enhancer)
    log.info(
        "model: %s parameters, %.1f MMACs/s, latency %.0f ms",
        f"{cost.parameters_trainable:,}",
        cost.macs_exact / 1e6,
        cost.latency_ms,
    )
    data = build_data(cfg, enhancer)
    data.setup()
    for line in data.describe():
        log.info(line)
    if cfg.evaluate:  # told now, not after hours
        computable(cfg.metrics.test, reference="clean" in data.dataset("test")[0])

    data_wait = DataWait()
    callbacks = [*make_callbacks(cfg, run_dir), data_wait]
    loggers = make_loggers(cfg, run_dir, resume)
    failed = True
    try:
        trainer = build(cfg.trainer, logger=loggers, callbacks=callbacks, default_root_dir=str(run_dir))
        for logger in loggers:
            logger.log_hyperparams(OmegaConf.to_container(cfg, resolve=True) | {"cost": summary_of(cost)})
        log.info("everything of this run goes to %s", run_dir)
        fit(trainer, module, SpeechDataModule(data), resume, run_dir)
        if not trainer.is_global_zero:
            failed = False
            return
        summary = {
            "cost": summary_of(cost),
            "steps": trainer.global_step,
            "validation": {name: float(value) for name, value in trainer.callback_metrics.items()},
            "data_wait": data_wait.share,
            "bad_files": [str(bad) for bad in data.bad_files],
        }
        best = run_dir / "checkpoints" / "best.ckpt"
        if not best.is_file():
            log.warning("nothing was validated, so there is no best.ckpt; see trainer.check_val_every_n_epoch")
        elif cfg.evaluate:
            log.info("evaluating %s on the test split", best)
            summary["test"] = evaluate_split(load(best), data, "test", cfg.metrics, run_dir / "test")
        summary["seconds"] = round(time.perf_counter() - begin, 1)
        (run_dir / "summary.json").write_text(json.dumps(summary, indent=2))
        log_summary(loggers, summary)
        tell_where(run_dir)
        failed = False
    finally:
        # within the task, also when it crashes: otherwise the jobs of a sweep run into one W&B run
        if any(isinstance(logger, WandbLogger) for logger in loggers):
            import wandb

            wandb.finish(exit_code=int(failed))


def fit(
    trainer: pl.Trainer, module: pl.LightningModule, data: SpeechDataModule, resume: Path | None, run_dir: Path
) -> None:
    try:
        with logging_redirect_tqdm():  # lines of the log stand above the progress bar
            trainer.fit(module, datamodule=data, ckpt_path=resume and str(resume), weights_only=True)
    except (KeyboardInterrupt, SystemExit):  # Lightning turns Ctrl-C into an exit without a word
        last = run_dir / "checkpoints" / "last.ckpt"
        advice = f"go on from its last checkpoint with resume={last}" if last.is_file() else "nothing was saved yet"
        raise UserError(f"interrupted at step {trainer.global_step}; {advice}") from None


def quieten_lightning() -> None:
    """Leave out what Lightning says about itself; warnings that matter stay."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",  # small crops are faster read than workers started
        ".*dataloader is not resumable.*",  # ours is: see SpeechDataModule
        ".*Checkpoint directory .* exists.*",
        ".*log_every_n_steps.*",
        ".*Experiment logs directory .* exists.*",
        ".*LeafSpec.*",
        ".*anonymous setting.*",
    ):
        warnings.filterwarnings("ignore", message)
    os.environ.setdefault("WANDB_SILENT", "true")


def find_resume(cfg: DictConfig) -> Path | None:
    """The checkpoint of `resume=`, checked before anything is spent on it."""
    if not cfg.resume:
        return None
    if cfg.resume != "auto":
        checkpoint = Path(cfg.resume)
        if not checkpoint.is_file() or checkpoint.resolve().parent.name != "checkpoints":
            raise UserError(f"resume={cfg.resume}: expected the checkpoints/last.ckpt of a run, or auto")
        return _fitting(checkpoint, cfg)
    this_run = Path(cfg.run_dir)
    wanted = _comparable(cfg)
    root = next((parent for parent in this_run.parents if parent.name == "outputs"), this_run.parent)
    checkpoints = sorted(root.glob("**/checkpoints/last.ckpt"), key=lambda path: path.stat().st_mtime, reverse=True)
    for checkpoint in checkpoints:
        other = checkpoint.parents[1]
        record = other / ".hydra" / "config.yaml"
        if (other / "summary.json").exists() or not record.is_file():
            continue
        if _comparable(OmegaConf.load(record)) == wanted:
            log.info("resuming %s", checkpoint)
            return _fitting(checkpoint, cfg)
    log.info("resume=auto: no unfinished run of this configuration under %s; starting anew", root)
    return None


def _fitting(checkpoint: Path, cfg: DictConfig) -> Path:
    """`checkpoint`, if it is one of this model."""
    theirs = read_checkpoint(checkpoint).get(RECORD, {}).get("model")
    if theirs != model_record(cfg):
        raise UserError(f"resume={checkpoint}: holds another model ({theirs}); resume with the same model= and knobs")
    return checkpoint


def _comparable(cfg: DictConfig) -> dict:
    """The configuration without what may differ between a run and its continuation."""
    plain = OmegaConf.to_container(cfg, resolve=False)
    return {key: value for key, value in plain.items() if key not in ("resume", "run_dir", "logger", "threads")}


def make_loggers(cfg: DictConfig, run_dir: Path, resume: Path | None) -> list[Logger]:
    """metrics.csv always, and the chosen one. A resumed run's metrics.csv begins with its past."""
    past = _rows_before(resume, run_dir / "metrics.csv") if resume else []
    table = CSVLogger(run_dir, name="", version="")  # deletes the file that it finds
    table.experiment.metrics = past
    table.save()
    if not cfg.logger:
        return [table]
    chosen = build(cfg.logger)
    try:
        _ = chosen.experiment  # begins the run now: a wrong setting should not wait for the first epoch
    except Exception as error:  # of whatever kind the logger's package raises
        raise UserError(f"logger: {' '.join(str(error).split())[:200]}") from error
    return [table, chosen]


def _rows_before(checkpoint: Path, metrics: Path) -> list[dict]:
    """What was logged of the steps before the checkpoint, counted from 0; later ones will be logged again."""
    if not metrics.is_file():
        return []
    step = read_checkpoint(checkpoint)["global_step"]
    with metrics.open(newline="") as file:
        return [row for row in csv.DictReader(file) if int(row["step"]) < step]


def make_callbacks(cfg: DictConfig, run_dir: Path) -> list[Callback]:
    checkpoints = run_dir / "checkpoints"
    mode = "min" if "loss" in cfg.monitor else "max"
    metric = cfg.monitor.removeprefix("val/")
    check_metrics(cfg.metrics.validation)
    if not cfg.monitor.startswith("val/") or metric not in ("loss", *cfg.metrics.validation):
        raise UserError(
            f"monitor={cfg.monitor}: not logged; use val/loss or one of metrics.validation={cfg.metrics.validation}"
        )
    callbacks: list[Callback] = [
        ValidationScores(list(cfg.metrics.validation), cfg.metrics.validation_files, cfg.metrics.workers),
        ValidationClips(run_dir / "validation", cfg.clips, cfg.clips_every),
        ModelCheckpoint(checkpoints, "best", monitor=cfg.monitor, mode=mode, enable_version_counter=False),
        ModelCheckpoint(checkpoints, "last", save_on_train_epoch_end=True, enable_version_counter=False),
        ModelCheckpoint(
            checkpoints,
            "last",
            train_time_interval=timedelta(minutes=cfg.checkpoint_minutes),
            enable_version_counter=False,
        ),
        LearningRateMonitor(logging_interval="step"),
        TQDMProgressBar(refresh_rate=5, leave=False),
    ]
    if "si_sdr" in cfg.metrics.validation and cfg.monitor != "val/si_sdr":
        callbacks.append(
            ModelCheckpoint(checkpoints, "best_si_sdr", monitor="val/si_sdr", mode="max", enable_version_counter=False)
        )
    return callbacks


def summary_of(cost: Cost) -> dict:
    return {
        "parameters_trainable": cost.parameters_trainable,
        "parameters_all": cost.parameters_all,
        "mmacs_exact": cost.macs_exact / 1e6,
        "mmacs_thop": cost.macs_thop / 1e6,
        "latency_ms": cost.latency_ms,
        "lookahead_ms": cost.lookahead_ms,
    }


def log_summary(loggers: list[Logger], summary: dict) -> None:
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            for name, value in summary.get("test", {}).items():
                logger.experiment.summary[f"test/{name}"] = value
            logger.experiment.summary.update({f"cost/{name}": value for name, value in summary["cost"].items()})


def tell_where(run_dir: Path) -> None:
    log.info("\n%s", run_dir)
    for name, what in (
        ("checkpoints/best.ckpt", "the best weights; load with gtcrn.load or ckpt="),
        ("checkpoints/last.ckpt", "to go on: resume="),
        ("test", "enhanced audio, scores.csv, tables and spectrograms of the test split"),
        ("validation", "clips while training, audio and spectrograms"),
        ("metrics.csv", "every logged value"),
        ("summary.json", "the results in one file"),
    ):
        if (run_dir / name).exists():
            log.info("  %-24s %s", name, what)
