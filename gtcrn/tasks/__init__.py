"""One file per task; the only files that see a configuration."""

import importlib
import io
import os
import shutil
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from gtcrn.errors import Interrupted, Terminated, UserError
from gtcrn.workers import end_with_parent

FAILURE = "error.txt"

# Hydra's word on conf/hydra/launcher, whose files bear the names of the plugins' own and are complete without them
warnings.filterwarnings("ignore", r"\s*'hydra/\w+/\w+' is validated against ConfigStore schema", UserWarning)


def in_sweep() -> bool:
    """Whether this is a job of a multirun, whose folder is named by what it does."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


@contextmanager
def no_stub() -> Iterator[None]:
    """Remove the folder that Hydra made for a run, if the run fails before anything else is in it."""
    try:
        yield
    except BaseException:
        made = HydraConfig.initialized() and OmegaConf.select(HydraConfig.get(), "runtime.output_dir")
        if made and not in_sweep():
            folder = Path(made)
            traces = {folder / ".hydra", folder / f"{HydraConfig.get().job.name}.log"}
            if folder.is_dir() and traces.issuperset(folder.iterdir()):
                shutil.rmtree(folder, ignore_errors=True)
        raise


def run(cfg: DictConfig) -> Any:
    """Run the task that `cfg.task` names, and give back what it returns: the objectives of a sweep.

    What a user can mend is told in one line, with exit code 2; so are Ctrl-C and SIGTERM, with 130 and 143. A job
    of a sweep leaves any error in its folder's error.txt, and the other jobs run: the first line for people, then
    the traceback of what is no mistake of the user.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a notebook's is none
            stream.reconfigure(errors="backslashreplace")  # a name that is not UTF-8 ends no job
    try:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, partial(_terminate, os.getpid()))
        if in_sweep():
            end_with_parent()  # where a launcher runs jobs in processes of its own
            (Path(cfg.run_dir) / FAILURE).unlink(missing_ok=True)  # of an attempt before this one
        with no_stub():
            from gtcrn.tasks.building import refuse_empty  # here, so that --help needs no torch

            refuse_empty(cfg)
            if cfg.sweep.resume and not in_sweep():
                raise UserError("sweep.resume is for sweeps, started with -m; a single run goes on with resume=auto")
            if "rows" in cfg.model and cfg.task != "profile":
                raise UserError("model=all is for task=profile: name one model, e.g. model=light_v3")
            return importlib.import_module(f"gtcrn.tasks.{cfg.task}").run(cfg)
    except (Interrupted, KeyboardInterrupt) as error:
        if isinstance(error, KeyboardInterrupt):
            error = Interrupted.by(error, "interrupted")
        print(f"error: {error}", file=sys.stderr)
        if in_sweep():
            print("the sweep goes on with the same command and sweep.resume=true", file=sys.stderr)
        sys.exit(error.code)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        if not in_sweep():
            sys.exit(2)
        (Path(cfg.run_dir) / FAILURE).write_text(str(error))
    except Exception as error:
        if not in_sweep():
            raise
        message = f"{type(error).__name__}: {' '.join(str(error).split())}"
        print(f"error: {message}; its traceback is in {cfg.run_dir}/{FAILURE}", file=sys.stderr)
        (Path(cfg.run_dir) / FAILURE).write_text(f"{message}\n\n{traceback.format_exc()}")
    return None


def _terminate(process: int, number: int, frame: Any) -> None:
    """Raise `Terminated` in the process that runs the task; one that was forked from it ends as without this."""
    if os.getpid() != process:
        os._exit(128 + number)
    raise Terminated
