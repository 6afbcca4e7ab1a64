"""Modules of the user's own: where they are found, and those that are imported to register metrics and formats."""

from __future__ import annotations

import importlib
import os
import sys

from omegaconf import DictConfig

from gtcrn.errors import UserError
from gtcrn.tasks.checking import ON_PATH, check_value, plain


def find_modules_here() -> None:
    """Let modules be found in the folder of the command too, after all that is installed."""
    if (here := os.getcwd()) not in sys.path:
        sys.path.append(here)


def import_extensions(cfg: DictConfig) -> None:
    """Import the modules of `imports=`. Raises UserError for one that can't be imported."""
    names = plain(cfg, "imports")
    check_value(names, list[str], "imports")
    for name in names:
        try:
            importlib.import_module(name)
        except UserError:
            raise
        except (Exception, SystemExit) as error:  # a module of the user's may raise anything, and end the process
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise UserError(f"imports=[{name}]: can't be imported ({reason}); {ON_PATH}") from error
