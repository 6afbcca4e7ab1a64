"""Around a multirun: where its jobs go, which of them are still to do, and what is shown when all are done."""

from __future__ import annotations

import importlib
import logging
import sys
from pathlib import Path

from filelock import FileLock
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, read_write

from gtcrn.errors import UserError
from gtcrn.tasks import FAILURE

log = logging.getLogger(__name__)

LONGEST_NAME = 200  # characters; file systems allow 255 bytes
EXTRAS = {"ray": "ray", "optuna": "optuna"}  # extras of pyproject.toml, by launcher or sweeper; others: sweep
SQLITE = "sqlite:///"
RECORD = "multirun.yaml"  # Hydra's own record of a sweep


class SweepCallback(Callback):
    """Hydra calls it before the first job of a sweep and after the last one, in the process that launches them."""

    def on_multirun_start(self, config: DictConfig, **kwargs) -> None:
        """Name the jobs' folders by what differs between them, in an earlier sweep's folder if that goes on."""
        _check_plugins(config)
        storage = config.hydra.sweeper.get("storage")
        if storage and storage.startswith(SQLITE):
            _prepare_storage(storage)
        params = config.hydra.sweeper.get("params") or {}
        overrides = OverridesParser.create().parse_overrides(
            [f"{key}={value}" for key, value in params.items()] + list(config.hydra.overrides.task)
        )
        if resume := config.sweep.resume:
            folder = _given(resume) if isinstance(resume, str) else _last_alike(config)
        else:
            folder = Path(config.hydra.sweep.dir)
        with read_write(config.hydra):
            config.hydra.sweep.dir = str(folder)
            # Hydra composes each job's configuration anew, with what is added here
            config.hydra.overrides.hydra += [f"hydra.sweep.dir='{folder}'", *_naming(overrides)]

    def on_multirun_end(self, config: DictConfig, **kwargs) -> None:
        """The report of a sweep of trainings; exit code 1 if a job failed."""
        folder = Path(config.hydra.sweep.dir)
        if config.task in ("train", "evaluate"):
            from gtcrn.tasks.report import report

            try:
                report([folder], folder)
            except UserError as error:
                log.warning("no report: %s", error)
        if failures := sorted(folder.rglob(FAILURE)):
            for failure in failures:
                print(f"failed: {failure.parent}: {failure.read_text().splitlines()[0]}", file=sys.stderr)
            if config.task == "train" and (folder / RECORD).is_file():
                print("the same command with sweep.resume=true runs only what is missing", file=sys.stderr)
            sys.exit(1)


def _check_plugins(config: DictConfig) -> None:
    """Exit with the command that helps if a launcher or sweeper is not installed."""
    for role in ("launcher", "sweeper"):
        module = config.hydra[role]._target_.rpartition(".")[0]
        try:
            importlib.import_module(module)
        except ImportError as error:
            choice = config.hydra.runtime.choices[f"hydra/{role}"]
            extra = EXTRAS.get(choice, "sweep")
            sys.exit(f'error: hydra/{role}={choice} needs more packages ({error}): pip install -e ".[{extra}]"')


def _prepare_storage(url: str) -> None:
    """Make Optuna's database, one process at a time: two that begin together would both make its tables."""
    from optuna.storages import RDBStorage

    file = Path(url.removeprefix(SQLITE)).absolute()
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{file}.lock"):
        RDBStorage(url)


def _naming(overrides: list[Override]) -> list[str]:
    """Overrides of Hydra's own keys after which a job's folder is named by the swept keys alone."""
    swept = [override for override in overrides if override.is_sweep_override()]
    lines = [override.input_line for override in swept]
    if not swept or any("/" in line.partition("=")[2] for line in lines) or len(",".join(lines)) > LONGEST_NAME:
        return ["hydra.sweep.subdir=${hydra.job.num}"]
    constant = [override.key_or_group for override in overrides if not override.is_sweep_override()]
    quoted = ",".join(f"'{key}'" for key in constant)
    return [f"hydra.job.config.override_dirname.exclude_keys=[{quoted}]"]


def _given(resume: str) -> Path:
    folder = Path(resume)
    if not (folder / RECORD).is_file():
        sys.exit(f"error: sweep.resume={resume}: expected true, or the folder of a sweep, which holds {RECORD}")
    return folder


def _last_alike(config: DictConfig) -> Path:
    """The folder of the newest sweep of the same command, a new one if there is none."""
    new = Path(config.hydra.sweep.dir)
    root = next((parent for parent in new.parents if parent.name == "outputs"), new.parent)
    wanted = _comparable(config.hydra.overrides.task)
    for record in sorted(root.rglob(RECORD), key=lambda path: path.stat().st_mtime, reverse=True):
        if _comparable(OmegaConf.load(record).hydra.overrides.task) == wanted:
            log.info("going on with %s", record.parent)
            return record.parent
    log.info("sweep.resume=true: no sweep of this command under %s; starting anew", root)
    return new


def _comparable(overrides: list[str]) -> set[str]:
    """What was typed, without what may differ between a sweep and its continuation."""
    return {line for line in overrides if line.partition("=")[0] not in ("sweep.resume", "threads", "logger")}
