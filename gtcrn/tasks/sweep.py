"""A Hydra callback around multiruns: the folders of the jobs, which jobs are left to do, and the report at the end."""

from __future__ import annotations

import hashlib
import importlib
import json
import logging
import math
import re
import sys
from pathlib import Path

from filelock import FileLock
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, read_write

from gtcrn.errors import UserError
from gtcrn.tasks import FAILURE, runs_beside
from gtcrn.tasks.extending import find_modules_here, import_extensions

log = logging.getLogger(__name__)

LONGEST_NAME = 200  # characters; file systems allow 255 bytes
PASTED = re.compile(r"[\w./+-]+", re.ASCII)  # values that Hydra's grammar takes without quotes, after ckpt=
EXTRAS = {"ray": "ray", "optuna": "optuna"}  # extras of pyproject.toml, by launcher or sweeper; others: sweep
SQLITE = "sqlite:///"
RECORD = "multirun.yaml"  # Hydra's own record of a sweep


class SweepCallback(Callback):
    """A callback that Hydra calls before the first job of a sweep and after the last, in the launching process."""

    def on_multirun_start(self, config: DictConfig, **kwargs) -> None:
        """Name the jobs' folders by the overrides in which they differ, within an earlier sweep if that is resumed."""
        _check_plugins(config)
        try:
            find_modules_here()
            import_extensions(config)  # the direction of a registered metric is asked for here, and by the report
        except UserError as error:
            sys.exit(f"error: {error}")  # of other exceptions Hydra makes a warning
        storage = config.hydra.sweeper.get("storage")
        if storage and storage.startswith(SQLITE):
            _prepare_storage(storage)
        params = config.hydra.sweeper.get("params") or {}
        loader = GlobalHydra.instance().config_loader()  # knows the choices of a group, which `*` stands for
        overrides = OverridesParser.create(loader).parse_overrides(
            [f"{key}={value}" for key, value in params.items()] + list(config.hydra.overrides.task)
        )
        if resume := config.sweep.resume:
            folder = _given(resume) if isinstance(resume, str) else _last_alike(config)
        else:
            folder = Path(config.hydra.sweep.dir)
        with read_write(config.hydra):
            config.hydra.sweep.dir = str(folder)
            # Hydra composes each job's configuration anew, with the overrides that are added here
            jobs = config.hydra.sweeper.get("n_trials") or _number_of_jobs(overrides)
            config.hydra.overrides.hydra += [f"hydra.sweep.dir='{folder}'", f"sweep.jobs={jobs}", *_naming(overrides)]
            if config.hydra.sweeper.get("study_name"):
                check_directions(config)
                name = config.hydra.sweeper.study_name = study_name(config, overrides)
                # Hydra 1.4 refuses a job whose sweeper differs from that of the sweep
                config.hydra.overrides.hydra.append(f"hydra.sweeper.study_name='{name}'")
                log.info("study %s in %s", config.hydra.sweeper.study_name, storage)

    def on_multirun_end(self, config: DictConfig, **kwargs) -> None:
        """Write the report of a sweep of trainings or evaluations, and exit with code 1 if a job failed."""
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
    """Exit with the command that installs the chosen launcher or sweeper if it is missing."""
    for role in ("launcher", "sweeper"):
        module = config.hydra[role]._target_.rpartition(".")[0]
        try:
            importlib.import_module(module)
        except ImportError as error:
            choice = config.hydra.runtime.choices[f"hydra/{role}"]
            extra = EXTRAS.get(choice, "sweep")
            sys.exit(f'error: hydra/{role}={choice} needs more packages ({error}): pip install -e ".[{extra}]"')


def _prepare_storage(url: str) -> None:
    """Make Optuna's database under a lock, because two processes that begin together would both make its tables."""
    from optuna.storages import RDBStorage

    file = Path(url.removeprefix(SQLITE)).absolute()
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{file}.lock"):
        RDBStorage(url)


def check_directions(config: DictConfig) -> None:
    """Exit with the override to type if a search would look for the worst value of an objective."""
    from gtcrn.metrics import more_is_better  # here, as below, since every command imports this file

    objectives, directions = config.objectives or [], config.hydra.sweeper.direction
    directions = [directions] if isinstance(directions, str) else list(directions)
    wanted = ["maximize" if more_is_better(name) else "minimize" for name in objectives]
    if [str(direction) for direction in directions] != wanted:
        sys.exit(
            f"error: hydra.sweeper.direction=[{','.join(map(str, directions))}]: of objectives="
            f"[{','.join(objectives)}] the better is found with 'hydra.sweeper.direction=[{','.join(wanted)}]'"
        )


def study_name(config: DictConfig, overrides: list[Override]) -> str:
    """Return the name of a search's study, which ends with a digest of everything that makes trials comparable.

    That is the configuration without the swept keys, and the search space; other trials must not be ranked with them.
    """
    from gtcrn.reports.runs import NO_DIFFERENCE

    space = sorted(override.input_line for override in overrides if override.is_sweep_override())
    plain = OmegaConf.to_container(config, resolve=False)
    alike = {key: value for key, value in plain.items() if key not in ("hydra", *NO_DIFFERENCE)}
    custom = plain["hydra"]["sweeper"].get("custom_search_space")
    digest = hashlib.sha256(json.dumps([alike, space, custom], sort_keys=True, default=str).encode()).hexdigest()
    return f"{config.hydra.sweeper.study_name}-{digest[:8]}"


def _naming(overrides: list[Override]) -> list[str]:
    """Return overrides of Hydra's keys that name a job's folder by the swept keys alone, e.g. r-8__width_mult-0.5.

    Such a name can be pasted after ckpt=; where values hold other characters, the folder is named by a number.
    """
    swept = [override for override in overrides if override.is_sweep_override()]
    lines = [override.input_line for override in swept]
    if not swept or len(",".join(lines)) > LONGEST_NAME or not all(map(_pastes, swept)):
        return ["hydra.sweep.subdir=${hydra.job.num}"]
    constant = ["sweep.jobs", *(override.key_or_group for override in overrides if not override.is_sweep_override())]
    quoted = ",".join(f"'{key}'" for key in constant)
    naming = "hydra.job.config.override_dirname"
    return [f"{naming}.exclude_keys=[{quoted}]", f"{naming}.kv_sep='-'", f"{naming}.item_sep='__'"]


def _number_of_jobs(overrides: list[Override]) -> int:
    """Return how many jobs a grid has."""
    discrete = [override for override in overrides if override.is_discrete_sweep()]
    return math.prod(sum(1 for _ in override.sweep_string_iterator()) for override in discrete)


def _pastes(override: Override) -> bool:
    """Return whether key and values can be used in the name of a folder, and unquoted on Hydra's command line."""
    if not PASTED.fullmatch(override.get_key_element()):
        return False
    if not override.is_discrete_sweep() or isinstance(override.value(), Glob):  # drawn numbers, names of choices
        return True
    return all(PASTED.fullmatch(value) and "/" not in value for value in override.sweep_string_iterator())


def _given(resume: str) -> Path:
    folder = Path(resume)
    if not (folder / RECORD).is_file():
        sys.exit(f"error: sweep.resume={resume}: expected true, or the folder of a sweep, which holds {RECORD}")
    return folder


def _last_alike(config: DictConfig) -> Path:
    """Return the folder of the newest sweep of the same command, a new one if there is none."""
    new = Path(config.hydra.sweep.dir)
    root = runs_beside(new, config.paths.outputs)
    wanted = _comparable(config.hydra.overrides.task)
    for record in sorted(root.rglob(RECORD), key=lambda path: path.stat().st_mtime, reverse=True):
        if _comparable(OmegaConf.load(record).hydra.overrides.task) == wanted:
            log.info("going on with %s", record.parent)
            return record.parent
    log.info("sweep.resume=true: no sweep of this command under %s; starting anew", root)
    return new


def _comparable(overrides: list[str]) -> set[str]:
    """Return the overrides without those that may differ between a sweep and its continuation."""
    from gtcrn.reports.runs import NO_DIFFERENCE

    return {line for line in overrides if re.split("[.=]", line)[0] not in NO_DIFFERENCE}
