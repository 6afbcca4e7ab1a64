"""task=profile: what a model costs."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict
from pathlib import Path

from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from gtcrn.analysis.cost import Cost, measure
from gtcrn.tasks.building import load_or_build, configure_torch

log = logging.getLogger(__name__)


def run(cfg: DictConfig) -> None:
    configure_torch(cfg)
    enhancer = load_or_build(cfg)
    cost = measure(enhancer)
    console = Console()
    console.print(_modules(cost))
    console.print(_totals(cost))
    console.print(_latency(cost))
    console.print(
        f"One second of audio is {cost.frames} frames. exact: weight MACs of convolutions, linear and recurrent layers\n"
        "and the ERB product. thop: what the thop package prints for the authors' code; it counts GRU gates and\n"
        "normalisations, counts strided transposed convolutions by their output, and misses functional calls.\n"
        "GTCRN's published 33.0 MMACs/s come from ptflops 0.7 alone (0.7.5 gives 31.97); no other counter agrees."
    )
    path = Path(cfg.run_dir) / "profile.json"
    path.write_text(json.dumps(asdict(cost), indent=2))
    log.info("written: %s", path)


def _modules(cost: Cost) -> Table:
    table = Table(title="exact MACs per second by module", title_justify="left")
    table.add_column("module")
    table.add_column("MMACs/s", justify="right")
    table.add_column("share", justify="right")
    for name, macs in cost.macs_by_module.items():
        table.add_row(name, f"{macs / 1e6:.3f}", f"{100 * macs / cost.macs_exact:.1f} %")
    return table


def _totals(cost: Cost) -> Table:
    table = Table(title="totals", title_justify="left")
    table.add_column("quantity")
    table.add_column("value", justify="right")
    table.add_row("parameters, trainable", f"{cost.parameters_trainable:,}")
    table.add_row("parameters, with fixed ERB matrices where authors count them", f"{cost.parameters_all:,}")
    table.add_row("MMACs/s, exact", f"{cost.macs_exact / 1e6:.3f}")
    table.add_row("MMACs/s, thop", f"{cost.macs_thop / 1e6:.3f}")
    table.add_row("state of one stream, KiB", f"{cost.state_bytes / 1024:.1f}")
    return table


def _latency(cost: Cost) -> Table:
    table = Table(title="latency budget", title_justify="left")
    table.add_column("part")
    table.add_column("ms", justify="right")
    table.add_row("window", f"{cost.window_ms:.1f}")
    table.add_row("hop", f"{cost.hop_ms:.1f}")
    table.add_row("look-ahead", f"{cost.lookahead_ms:.1f}")
    table.add_row("buffering in all (hop + overlap + look-ahead)", f"{cost.latency_ms:.1f}")
    table.add_row("compute per hop, eager PyTorch, one thread, median", f"{cost.compute_ms:.2f}")
    return table
