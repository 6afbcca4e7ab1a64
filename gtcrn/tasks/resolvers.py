"""What configurations ask for as ${name:argument}."""

from __future__ import annotations

from pathlib import Path

from omegaconf import OmegaConf

from gtcrn.metrics import more_is_better


def record_unless_finished(name: str, folder: str) -> str | None:
    """Return where Hydra records a job's configuration; None, nowhere, for a job whose results are there: they came of
    the one that is recorded."""
    return None if (Path(folder) / "summary.json").is_file() else name


def direction(monitor: str) -> str:
    """Return `max` or `min`: in which direction what is logged as `monitor` becomes better."""
    return "max" if more_is_better(monitor) else "min"


for resolver in (record_unless_finished, direction):
    OmegaConf.register_new_resolver(resolver.__name__, resolver, replace=True)
