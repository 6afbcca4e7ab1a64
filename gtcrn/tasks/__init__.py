"""One file per task; the only files that see a configuration."""

import importlib
import sys

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from gtcrn.errors import UserError


def run(cfg: DictConfig) -> None:
    """Run the task that `cfg.task` names. What a user can mend is told in one line, with exit code 2.

    In a sweep the error goes on to Hydra, which runs the other jobs first.
    """
    try:
        importlib.import_module(f"gtcrn.tasks.{cfg.task}").run(cfg)
    except UserError as error:
        # one from a loader's worker process comes with that process's traceback before it
        message = str(error).strip().splitlines()[-1].removeprefix(f"{UserError.__module__}.{UserError.__name__}: ")
        print(f"error: {message}", file=sys.stderr)
        if HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN:
            raise
        sys.exit(2)
