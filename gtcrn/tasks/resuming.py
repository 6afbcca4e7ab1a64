"""Resuming a training: find the run's folder, lock it against other processes, and find the checkpoint in it."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import yaml
from filelock import FileLock, Timeout
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.utilities import rank_zero_only

from gtcrn.errors import UserError
from gtcrn.files import unwritable
from gtcrn.models.pretrained import RECORD, read_checkpoint
from gtcrn.reports.runs import NO_DIFFERENCE
from gtcrn.tasks import in_sweep, runs_beside
from gtcrn.tasks.building import model_record
from gtcrn.training.checkpoints import LAST, PREVIOUS
from gtcrn.training.datamodule import SpeechDataModule

log = logging.getLogger(__name__)

CHECKPOINTS = "checkpoints"  # folder within the folder of a run
BEST = "best.ckpt"
SUMMARY = "summary.json"  # it exists if the run is finished
_HPARAMS = "hparams.yaml"  # the configuration with which a run was last started
_ORPHANS = 15  # s within which the loader workers of a killed process notice its end, and end too


def find_run(cfg: DictConfig) -> Path:
    """Return the folder of the run: the one that `resume=` names or finds, else `run_dir`.

    Raises UserError if `run_dir` holds another run, which this one would overwrite.
    """
    run_dir = Path(cfg.run_dir)
    if not cfg.resume and not in_sweep() and (run_dir / CHECKPOINTS).exists():
        raise UserError(f"run_dir={run_dir}: holds another run; go on with resume=, or take another folder")
    if cfg.resume and cfg.resume != "auto":
        checkpoint = Path(cfg.resume)
        if checkpoint.name not in (LAST, PREVIOUS) or not _saved(checkpoint.resolve().parents[1]):
            raise UserError(
                f"resume={cfg.resume}: expected the {CHECKPOINTS}/{LAST} of a run, or auto; "
                "init_from= begins a run with the weights of any other checkpoint"
            )
        return checkpoint.resolve().parents[1]
    if cfg.resume and not in_sweep():
        if not _is_named(run_dir):
            return _newest_unfinished(cfg) or run_dir
        if _saved(run_dir) and (other := _difference(cfg, run_dir)):
            raise UserError(
                f"run_dir={run_dir}: holds a run of another configuration ({other}); take another folder, or go on "
                f"with it by resume={run_dir / CHECKPOINTS / LAST}"
            )
    return run_dir


@contextmanager
def locked(run_dir: Path) -> Iterator[None]:
    """Lock the folder against other trainings. A folder that stays empty is removed.

    Raises UserError if another process trains there, or nothing can be written there.
    """
    if rank_zero_only.rank:  # with several devices the first process locks it for all
        yield
        return
    lock = FileLock(run_dir / ".lock")
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=_ORPHANS)
    except Timeout:
        raise UserError(f"{run_dir}: another process is training this run; wait for it, or end it") from None
    except OSError as error:
        raise UserError(unwritable(run_dir, error)) from error
    try:
        yield
    finally:
        with suppress(OSError):
            os.unlink(lock.lock_file)  # a process that waits for it notices, and makes a new one
        lock.release()
        with suppress(OSError):
            run_dir.rmdir()  # fails unless the folder is empty


def find_checkpoint(cfg: DictConfig, run_dir: Path) -> tuple[Path, dict] | None:
    """Return the checkpoint to resume from and its content, or None if a new run begins.

    It is `last.ckpt`, or `previous.ckpt` if that is damaged or missing. Raises UserError if neither can be read, or if
    it holds another model, was trained in another way, or has trained longer than this run is to.
    """
    if not (cfg.resume or in_sweep()):
        return None
    last = run_dir / CHECKPOINTS / LAST
    if last.is_dir():
        raise UserError(f"{last}: a folder, where the run writes its checkpoint; move it away")
    if not _saved(run_dir):
        _require_nothing_lost(run_dir)
        return None
    for partial in (run_dir / CHECKPOINTS).glob(".*.partial"):  # a killed process may have left them half written
        partial.unlink()
    checkpoint, content = _readable(run_dir, Path(cfg.resume).name if cfg.resume else LAST)
    log.info("resuming %s", checkpoint)
    _check_kind(cfg, checkpoint, content)
    _check_length(cfg, checkpoint, content)
    return checkpoint, content


def finished_before(cfg: DictConfig, run_dir: Path) -> dict | None:
    """Return the summary of a run that would be resumed (by a sweep or resume=auto) but is finished, else None."""
    summary = run_dir / SUMMARY
    return json.loads(summary.read_text()) if (in_sweep() or cfg.resume == "auto") and summary.is_file() else None


def check_continuation(module: pl.LightningModule, checkpoint: Path, content: dict) -> None:
    """Raise `UserError` if the module's tensors are not the checkpoint's, e.g. for other layers in a distillation."""
    stored, here = (
        {key: tuple(value.shape) for key, value in state.items()}
        for state in (content["state_dict"], module.state_dict())
    )
    if stored != here:
        key = min(dict(stored.items() ^ here.items()))
        raise UserError(
            f"resume={checkpoint}: {key} is {stored.get(key, 'missing')} in it, {here.get(key, 'missing')} here; "
            "resume with the same training.*"
        )


def comparable(config: Mapping[str, Any]) -> dict:
    """Return the configuration without the keys that may differ between a run and its continuation."""
    return {key: value for key, value in config.items() if key not in (*NO_DIFFERENCE, "paths", "cost")}


def _saved(run_dir: Path) -> bool:
    return any((run_dir / CHECKPOINTS / name).is_file() for name in (LAST, PREVIOUS))


def _require_nothing_lost(run_dir: Path) -> None:
    """Raise UserError if a run has trained beyond its first epoch, at whose end last.ckpt is written, and has none."""
    best = run_dir / CHECKPOINTS / BEST
    if best.is_file() and read_checkpoint(best).get("epoch", 0) > 0:
        raise UserError(
            f"{run_dir}: its {CHECKPOINTS}/{LAST} is gone, so it can't go on, and a new run would overwrite what is "
            f"left; init_from={best} begins another run with its best weights"
        )


def _is_named(run_dir: Path) -> bool:
    """Return whether the user named the folder, so that it is not the new one that Hydra makes for every start."""
    return not HydraConfig.initialized() or run_dir.resolve() != Path(HydraConfig.get().runtime.output_dir).resolve()


def _newest_unfinished(cfg: DictConfig) -> Path | None:
    root = runs_beside(Path(cfg.run_dir), cfg.paths.outputs)
    folders = sorted(root.glob(f"**/{CHECKPOINTS}"), key=lambda folder: folder.stat().st_mtime, reverse=True)
    for run_dir in (folder.parent for folder in folders):
        if _saved(run_dir) and not (run_dir / SUMMARY).exists() and not _difference(cfg, run_dir):
            return run_dir
    log.info("resume=auto: no unfinished run of this configuration under %s; starting anew", root)
    return None


def _difference(cfg: DictConfig, run_dir: Path) -> str:
    """Return the first keys in which the run's configuration differs from this one, "" if none does."""
    configurations = (_record(run_dir), OmegaConf.to_container(cfg, resolve=True))
    there, here = (_flat(comparable(config)) for config in configurations)
    keys = sorted(key for key in there.keys() | here.keys() if there.get(key) != here.get(key))
    return ", ".join(f"{key}={there.get(key)} there, {here.get(key)} here" for key in keys[:2])


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for name, value in config.items():
        nested = isinstance(value, Mapping) and value
        flat |= _flat(value, f"{prefix}{name}.") if nested else {f"{prefix}{name}": value}
    return flat


def _record(run_dir: Path) -> dict:
    """Return the configuration with which a run was last started, empty if it is not known."""
    try:
        record = yaml.safe_load((run_dir / _HPARAMS).read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return {}
    return record if isinstance(record, dict) else {}


def _readable(run_dir: Path, wanted: str) -> tuple[Path, dict]:
    checkpoints = run_dir / CHECKPOINTS
    reasons = []
    for name in (PREVIOUS,) if wanted == PREVIOUS else (LAST, PREVIOUS):
        try:
            content = read_checkpoint(checkpoints / name)
        except UserError as error:
            reasons.append(str(error))
            continue
        if reasons:
            log.warning("%s; going on from the one before it, of step %d", reasons[0], content["global_step"])
        return checkpoints / name, content
    best = checkpoints / BEST
    advice = f"; init_from={best} begins another run with its best weights" if best.is_file() else ""
    raise UserError(f"{'; '.join(reasons)}: there is nothing to go on from{advice}")


def _check_kind(cfg: DictConfig, checkpoint: Path, content: dict) -> None:
    stored = content.get(RECORD, {}).get("model")
    if stored != model_record(cfg):
        raise UserError(f"resume={checkpoint}: holds another model ({stored}); resume with the same model= and knobs")
    record = _record(checkpoint.resolve().parents[1])
    if not record:
        return
    for group in ("training", "optimizer", "scheduler"):
        kind = record.get(group, {}).get("_target_")
        if kind and kind != cfg[group]._target_:  # runs of earlier versions record no optimizer
            raise UserError(
                f"resume={checkpoint}: was trained by {kind}, this run by {cfg[group]._target_}; resume with the same "
                f"{group}=, or begin a run with init_from="
            )
    frozen, wanted = (list(config.get("freeze") or []) for config in (record, cfg))
    if frozen != wanted:
        raise UserError(
            f"resume={checkpoint}: was trained with freeze=[{','.join(frozen)}], this run has "
            f"freeze=[{','.join(wanted)}]; resume with the same, or begin a run with init_from="
        )


def _check_length(cfg: DictConfig, checkpoint: Path, content: dict) -> None:
    finished = (checkpoint.resolve().parents[1] / SUMMARY).exists()
    trained = {
        "max_epochs": content[SpeechDataModule.__qualname__]["epoch"],
        "max_steps": content["global_step"],
    }
    for key, count in trained.items():
        limit = cfg.trainer.get(key)
        if type(limit) is int and limit >= 0 and (count > limit or (finished and count == limit)):
            raise UserError(
                f"resume={checkpoint}: its run has trained {count} {key.removeprefix('max_')}, "
                f"and trainer.{key}={limit}: raise it to go on"
            )
