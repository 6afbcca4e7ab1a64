"""The tasks, one file each: the only files that see a configuration."""

import errno
import gc
import importlib
import io
import shutil
import sys
import traceback
import warnings
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from gtcrn.errors import Interrupted, UserError
from gtcrn.files import unwritable
from gtcrn.signals import ended_at_once, raise_at_sigterm
from gtcrn.tasks import resolvers  # noqa: F401  (registers what configurations ask for)
from gtcrn.tasks.checking import check
from gtcrn.tasks.extending import find_modules_here, import_extensions
from gtcrn.workers import end_with_parent, take_one_gpu

FAILURE = "error.txt"
UNWRITABLE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}

# Hydra warns that the files of conf/hydra/launcher bear the plugins' names; they are complete without the plugins' own
warnings.filterwarnings("ignore", r"\s*'hydra/\w+/\w+' is validated against ConfigStore schema", UserWarning)


def in_sweep() -> bool:
    """Return whether this is a job of a multirun, whose folder is named after its overrides."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def runs_beside(folder: Path, outputs: str) -> Path:
    """Return where to look for earlier runs: in `outputs` if this run's folder lies there, else in the one it is in."""
    root = Path(outputs).resolve()
    return Path(outputs) if root in folder.resolve().parents else folder.parent


@contextmanager
def no_stub() -> Iterator[None]:
    """Remove the folder that Hydra made for a run, if the run fails before anything else is in it."""
    try:
        yield
    except BaseException:
        remove_stub()
        raise


def remove_stub() -> None:
    """Remove the folder that Hydra made for a run, if nothing but Hydra's own is in it yet."""
    made = HydraConfig.initialized() and OmegaConf.select(HydraConfig.get(), "runtime.output_dir")
    if made and not in_sweep():
        folder = Path(made)
        traces = {folder / ".hydra", folder / f"{HydraConfig.get().job.name}.log"}
        if folder.is_dir() and traces.issuperset(folder.iterdir()):
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def importing() -> Iterator[None]:
    """Collect no garbage while a task's libraries are imported, and leave them out of all later collections.

    They make a million objects that stay. To look through these takes half a second each time, a seventh of a start.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
    _freeze()


@cache
def _freeze() -> None:
    """Leave what is there at the first call out of all collections; later ones would keep what earlier jobs left."""
    gc.freeze()


def run(cfg: DictConfig) -> Any:
    """Run the task that `cfg.task` names, and return its result: the objectives of a sweep.

    Errors that a user can mend are printed in one line, with exit code 2; so are Ctrl-C and SIGTERM, with 130 and 143.
    Unforeseen errors are printed in one line too, with exit code 1; error.txt in the job's folder has the traceback.
    A job of a sweep writes every error there, beginning with that line, and the other jobs run.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # in a notebook it is not
            stream.reconfigure(errors="backslashreplace")  # printing a file name that is not UTF-8 must not end the job
    try:
        raise_at_sigterm()  # again, since a launcher's processes did not begin with the command's
        if in_sweep():
            end_with_parent()  # because launchers may run jobs in processes of their own
            take_one_gpu()
            _record().unlink(missing_ok=True)  # an earlier attempt may have left it
        with no_stub():
            with ended_at_once(remove_stub), importing():
                task = checked(cfg)
            return task.run(cfg)
    except (Interrupted, KeyboardInterrupt) as error:
        if isinstance(error, KeyboardInterrupt):
            error = Interrupted.by(error, "interrupted")
        print(f"error: {error}", file=sys.stderr)
        if in_sweep():
            print("the sweep goes on with the same command and sweep.resume=true", file=sys.stderr)
        sys.exit(error.code)
    except Exception as error:
        if message := mendable(error):
            print(f"error: {message}", file=sys.stderr)
            code, details = 2, ""
        else:
            message = f"{type(error).__name__}: {' '.join(str(error).split())}"
            print(f"error: {message}; its traceback is in {_record()}", file=sys.stderr)
            code, details = 1, f"\n\n{traceback.format_exc()}"
        if in_sweep() or details:
            _record().parent.mkdir(parents=True, exist_ok=True)  # `no_stub` may have removed it
            _record().write_text(message + details)
        if not in_sweep():
            sys.exit(code)
    return None


def checked(cfg: DictConfig) -> ModuleType:
    """Check the whole configuration and return the task that it names. Raises UserError for what a user can mend."""
    if cfg.task != "profile" and "rows" in (cfg.model or {}):
        raise UserError("model=all is for task=profile: name one model, e.g. model=light_v3")
    find_modules_here()
    check(cfg)
    import_extensions(cfg)
    if cfg.sweep.resume and not in_sweep():
        raise UserError("sweep.resume is for sweeps, started with -m; a run of its own goes on with resume=auto")
    return importlib.import_module(f"gtcrn.tasks.{cfg.task}")


def _record() -> Path:
    return Path(HydraConfig.get().runtime.output_dir) / FAILURE


def mendable(error: Exception) -> str | None:
    """Return the message, one line, of an error that a user can mend, or None for any other error.

    Such are the framework's refusals, a full disk, a folder that can't be written to, too little memory, and a process
    that was ended from outside.
    """
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError) and error.errno is not None:
        if not error.filename:
            return str(error)
        return unwritable(error.filename, error) if error.errno in UNWRITABLE else f"{error.filename}: {error.strerror}"
    if isinstance(error, MemoryError):
        return f"not enough memory ({error or 'for what was asked'}); take smaller numbers, or a larger machine"
    if isinstance(error, BrokenExecutor) or "DataLoader worker" in str(error):
        return (
            "a worker process was ended from outside, most often for want of memory: give it fewer at once, with "
            "data.num_workers=, metrics.workers= or workers="
        )
    return None
