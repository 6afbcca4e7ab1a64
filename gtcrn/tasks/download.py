"""task=download: a corpus from its published address into the folders that data=… reads."""

from __future__ import annotations

import logging
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table
from tqdm.contrib.logging import logging_redirect_tqdm

from gtcrn.data import audio
from gtcrn.errors import Interrupted
from gtcrn.files import expanded
from gtcrn.plots.tables import rich_table
from gtcrn.tasks.building import build, require

log = logging.getLogger(__name__)


def run(cfg: DictConfig) -> None:
    root = expanded(require(cfg, "output"))
    corpus = build(cfg.download)
    log.info("%s\nlicence: %s", corpus.citation, corpus.licence)
    try:
        with logging_redirect_tqdm():  # so that log lines appear above the progress bars
            folders = corpus.fetch(root)
    except KeyboardInterrupt as stop:
        raise Interrupted.by(stop, f"interrupted; the same command goes on where it stopped, in {root}") from None
    console = Console()
    console.print(contents(folders))
    name = HydraConfig.get().runtime.choices["download"]  # it has the name of the choice of data= that reads it
    console.print(f"next: gtcrn data={name} data.root={root}", highlight=False, soft_wrap=True)


def contents(folders: list[Path]) -> Table:
    """Return a table of the number of files and the hours of audio in each folder."""
    rows = []
    for folder in folders:
        files = [path for path in folder.rglob("*") if path.is_file()]
        hours = sum(audio.info(path).duration for path in files if audio.is_audio(path)) / 3600
        rows.append((folder.name, f"{len(files):,}", f"{hours:.2f}" if hours else "–"))
    return rich_table("", ("folder", "files", "hours"), rows)
