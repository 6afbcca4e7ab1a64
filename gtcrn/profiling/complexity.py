"""A table of the costs of many models, as text, as numbers and as a figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import matplotlib
import pandas as pd
import rich.table
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gtcrn.files import write_text
from gtcrn.plots.figures import OPEN_STYLE, save
from gtcrn.plots.labels import label_points
from gtcrn.plots.palette import BLUE, GREY, GRID
from gtcrn.plots.tables import markdown_table, rich_table, write_csv
from gtcrn.profiling.cost import EXACT, THOP, Cost

DEFINITIONS = (
    EXACT,
    THOP,
    "with ERB: and the fixed ERB matrices, where the authors count them.",
    "activations, float32 for one hop: all that layers with weights put out, and the most that is in use at one time, "
    "beside weights and state.",
    "hop + delay: by which the streamed output is late, look-ahead included. RTF: compute per hop / hop, median in "
    "CPU time of eager PyTorch on one thread of this machine; compare within one table only.",
)

_NONE = "–"
_SUPERSCRIPTS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class ModelCost:
    """The cost of a named model. published_*: its authors' figures, as text. note: why ours differ."""

    name: str
    cost: Cost
    published_parameters: str = _NONE
    published_macs: str = _NONE
    note: str = ""


def write(rows: Sequence[ModelCost], folder: Path) -> list[Path]:
    """Write `complexity.md`, `complexity.csv` and `complexity.png`, and return their paths."""
    paths = [folder / f"complexity.{suffix}" for suffix in ("md", "csv", "png")]
    write_text(paths[0], markdown(rows))
    write_csv(frame(rows), paths[1], float_format="%.6g")
    save(scatter(rows), paths[2])
    return paths


def frame(rows: Sequence[ModelCost]) -> pd.DataFrame:
    """Return a table with a row per model, in the units of `Cost`; costs of a stream are missing if there is none."""
    table = []
    for row in rows:
        costs = asdict(row.cost) | {"real_time_factor": row.cost.real_time_factor}
        if not row.cost.streams:
            costs |= dict.fromkeys(("state_bytes", "activation_bytes", "peak_bytes"), None)
        del costs["macs_by_module"]
        table.append({"model": row.name, **costs, **_published(row)})
    return pd.DataFrame(table).convert_dtypes()


def _published(row: ModelCost) -> dict[str, str]:
    return {key: getattr(row, key) for key in ("published_parameters", "published_macs")}


def markdown(rows: Sequence[ModelCost]) -> str:
    """Return the report in Markdown: tables of size and of one hop of a stream, definitions, and the figure."""
    tables = [
        markdown_table([name.replace("\n", " ") for name in header], cells)
        for header, cells in (_size(rows), _hop(rows))
    ]
    notes = "\n".join(f"- {note}" for note in (*DEFINITIONS, *_footnotes(rows)))
    picture = "![Parameters against MACs, memory against time](complexity.png)"
    return "\n\n".join(["# What the models cost", *tables, notes, picture]) + "\n"


def terminal(rows: Sequence[ModelCost]) -> list[rich.table.Table]:
    """Return the tables of the report for `rich.print`, with the notes below the last one."""
    tables = [rich_table("size", *_size(rows)), rich_table("one hop of a stream", *_hop(rows))]
    tables[-1].caption = "\n".join((*DEFINITIONS, *_footnotes(rows)))
    tables[-1].caption_justify = "left"
    return tables


def _footnotes(rows: Sequence[ModelCost]) -> list[str]:
    noted = [row for row in rows if row.note]
    return [f"{mark} {row.note}" for row, mark in zip(noted, _marks(rows).values())]


def _marks(rows: Sequence[ModelCost]) -> dict[str, str]:
    """Return the superscript number of every row that has a note, by name."""
    noted = [row.name for row in rows if row.note]
    return {name: str(number).translate(_SUPERSCRIPTS) for number, name in enumerate(noted, 1)}


def _size(rows: Sequence[ModelCost]) -> tuple[list[str], list[list[str]]]:
    header = [
        "model",
        "trainable\nparameters",
        "with\nERB",
        "published",
        "exact\nMMACs/s",
        "thop\nMMACs/s",
        "published",
    ]
    marks = _marks(rows)
    cells = [
        [
            f"{row.name} {marks.get(row.name, '')}".strip(),
            f"{row.cost.parameters_trainable:,}",
            f"{row.cost.parameters_all:,}",
            row.published_parameters,
            f"{row.cost.macs_exact / 1e6:,.3f}",
            f"{row.cost.macs_thop / 1e6:,.3f}",
            row.published_macs,
        ]
        for row in rows
    ]
    return header, cells


def _hop(rows: Sequence[ModelCost]) -> tuple[list[str], list[list[str]]]:
    units = ["hop\nms", "hop +\ndelay ms", "look-ahead\nms", "state\nKiB", "activations\nKiB", "in use\nKiB"]
    header = ["model", *units, "compute\nms", "RTF"]
    cells = []
    for row in rows:
        cost = row.cost
        line = [row.name, f"{cost.hop_ms:.1f}", f"{cost.latency_ms:.1f}", f"{cost.lookahead_ms:.0f}"]
        if cost.streams:
            line += [f"{size / 1024:,.1f}" for size in (cost.state_bytes, cost.activation_bytes, cost.peak_bytes)]
            line += [f"{cost.compute_ms:.2f}", f"{cost.real_time_factor:.3f}"]
        cells.append(line + [_NONE] * (len(header) - len(line)))
    return header, cells


def scatter(rows: Sequence[ModelCost]) -> Figure:
    """Plot parameters against MACs of all models, and real-time factor against memory of those that can stream."""
    sizes = {row.name: (row.cost.macs_exact / 1e6, row.cost.parameters_all / 1e3) for row in rows}
    streams = {
        row.name: ((row.cost.state_bytes + row.cost.peak_bytes) / 1024, row.cost.real_time_factor)
        for row in rows
        if row.cost.streams
    }
    with matplotlib.rc_context(OPEN_STYLE):
        figure = Figure(figsize=(12, 5.4), dpi=150, layout="constrained")
        figure.get_layout_engine().set(wspace=0.06)
        left, right = figure.subplots(1, 2)
        _draw(left, sizes, "exact MMACs/s", "parameters, fixed ERB matrices included [thousand]")
        speed = "real-time factor, one thread [s of compute per s of audio]"
        _draw(right, streams, "state and activations in use [KiB]", speed)
        right.axhline(1, color=GREY, linewidth=0.8, linestyle="--")
        figure.draw_without_rendering()  # lays out the axes
        figure.set_layout_engine("none")  # labels that are added from here on don't change the layout
        for panel, points in ((left, sizes), (right, streams)):
            label_points(panel, points)
    return figure


def _draw(panel: Axes, points: Mapping[str, tuple[float, float]], x: str, y: str) -> None:
    xs, ys = ([point[axis] for point in points.values()] for axis in (0, 1))
    panel.scatter(xs, ys, color=BLUE, s=26, linewidth=0, zorder=3)
    panel.set(xscale="log", yscale="log", xlabel=x, ylabel=y)
    panel.margins(0.12)
    panel.grid(True, color=GRID, linewidth=0.6)
    panel.set_axisbelow(True)
    for axis in (panel.xaxis, panel.yaxis):
        axis.set_major_formatter("{x:,g}")
        low, high = axis.get_view_interval()
        between = "25" if high < 100 * low else ""  # first digits of the minor ticks that there is room to label
        axis.set_minor_formatter(lambda value, _, shown=between: f"{value:g}" if f"{value:e}"[0] in shown else "")
