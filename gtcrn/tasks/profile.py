"""task=profile: what a model costs."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import rich.box
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from gtcrn.analysis.cost import measure
from gtcrn.tasks.building import configure_torch, load_or_build

log = logging.getLogger(__name__)


NOTES = """exact: weight MACs of convolutions, linear and recurrent layers and the ERB product.
thop: what the thop package prints for the authors' code; it counts GRU gates and normalisations
and strided transposed convolutions by their output, and misses functional calls.
GTCRN's published 33.0 MMACs/s come out of ptflops 0.7 alone (0.7.5 gives 31.97)."""


def run(cfg: DictConfig) -> None:
    configure_torch(cfg)
    cost = measure(load_or_build(cfg))
    console = Console()
    shares = [
        (name, f"{macs / 1e6:.3f}", f"{100 * macs / cost.macs_exact:.1f} %")
        for name, macs in cost.macs_by_module.items()
    ]
    console.print(_table("exact MACs by module", ("module", "MMACs/s", "share"), shares))
    totals = [
        ("parameters, trainable", f"{cost.parameters_trainable:,}"),
        ("parameters, with the fixed ERB matrices where authors count them", f"{cost.parameters_all:,}"),
        (f"MMACs/s, exact ({cost.frames} frames)", f"{cost.macs_exact / 1e6:.3f}"),
        ("MMACs/s, thop", f"{cost.macs_thop / 1e6:.3f}"),
        ("state of one stream, KiB", f"{cost.state_bytes / 1024:.1f}"),
    ]
    console.print(_table("totals", ("quantity", "value"), totals))
    latency = [
        ("window", f"{cost.window_ms:.1f}"),
        ("hop", f"{cost.hop_ms:.1f}"),
        ("look-ahead of the network", f"{cost.lookahead_ms:.1f}"),
        ("hop + delay of the streamed output", f"{cost.latency_ms:.1f}"),
        ("compute per hop, eager PyTorch, one thread, median", f"{cost.compute_ms:.2f}"),
    ]
    console.print(_table("latency budget", ("part", "ms"), latency))
    console.print(NOTES, highlight=False)
    path = Path(cfg.run_dir) / "profile.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(asdict(cost), indent=2))
    log.info("written: %s", path)


def _table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(title=title, title_justify="left", box=rich.box.SIMPLE_HEAD)
    for column, name in enumerate(header):
        table.add_column(name, justify="right" if column else "left")
    for row in rows:
        table.add_row(*row)
    return table
