"""Resolvers, the functions that configurations call as ${name:argument}."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf


def record_unless_finished(name: str, folder: str) -> str | None:
    """Return the folder where Hydra records a job's configuration; None, which keeps the record, for a finished job."""
    return None if (Path(folder) / "summary.json").is_file() else name


def direction(monitor: str) -> str:
    """Return `max` or `min`, the direction in which the value logged as `monitor` becomes better."""
    from gtcrn.metrics import more_is_better  # here, since its libraries take seconds that --help need not wait for

    return "max" if more_is_better(monitor) else "min"


def on_gpu(there: Any, elsewhere: Any, *, _root_: DictConfig) -> Any:
    """Return what suits the trainer: the one where it is told to take a GPU, as trainer=gpu does, else the other."""
    return there if OmegaConf.select(_root_, "trainer.accelerator") in ("gpu", "cuda") else elsewhere


for resolver in (record_unless_finished, direction, on_gpu):
    OmegaConf.register_new_resolver(resolver.__name__, resolver, replace=True)
