"""The report of `gtcrn.profiling.quantization` as text, as numbers and as a figure."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import rich.table
from matplotlib.figure import Figure

from gtcrn.files import write_text
from gtcrn.metrics import METRICS
from gtcrn.plots.figures import OPEN_STYLE, save
from gtcrn.plots.palette import GRID, bars, series
from gtcrn.plots.tables import markdown_table, rich_table, write_csv
from gtcrn.profiling.latency import SCORES
from gtcrn.profiling.quantization import LEVELS, Comparison

_NONE = "–"
_WORST = 8  # tensors that are listed
_DRAWN = 16  # tensors in a panel of the figure
NOTES = [
    "SNR: of the output against the float model's, mean and least over the recordings, then their mean at other levels "
    "of the input. Scores: on the recordings as they are.",
    "integers: share of the multiplications that the runtime does with integers. arena: of TFLite Micro for its "
    "reference kernels, where its package is installed and can run the file. CPU: median of the processor's time for a "
    "hop on this machine, all in.",
    "One tensor alone: the output SNR if only this tensor is rounded, or all weights; the smallest limit the whole.",
    "Inside: the SNR of a tensor in the file against the float file's, with all that was rounded before it.",
]

Table = tuple[str, list[str], list[list[str]]]  # title, header, rows


def write(comparison: Comparison, folder: Path) -> list[Path]:
    """Write `quantization.md`, `.csv` (the summary) and `.png`, and return their paths.

    `quantization_layers.csv` and `quantization_tensors.csv` are written too where there is something in them.
    """
    text, summary, picture = (folder / f"quantization{end}" for end in (".md", ".csv", ".png"))
    parts = ["# Integers beside the float model"]
    for title, header, rows in _tables(comparison):
        parts += [f"## {title}", markdown_table(header, rows)]
    parts += ["\n".join(f"- {note}" for note in NOTES), "![output SNR, by level and by tensor](quantization.png)"]
    write_text(text, "\n\n".join(parts) + "\n")
    write_csv(comparison.summary.reset_index(), summary, float_format="%.6g")
    ranked = {"layers": comparison.layers, "tensors": comparison.tensors}
    ranked = {folder / f"quantization_{name}.csv": errors for name, errors in ranked.items() if not errors.empty}
    for path, errors in ranked.items():
        write_csv(errors.reset_index(names="tensor"), path, float_format="%.6g")
    save(figure(comparison), picture)
    return [text, summary, *ranked, picture]


def terminal(comparison: Comparison) -> list[rich.table.Table]:
    """Return the tables of the report for `rich.print`."""
    return [rich_table(*table) for table in _tables(comparison)]


def _tables(comparison: Comparison) -> list[Table]:
    tables = [("quality", *_quality(comparison.summary)), ("size and time", *_cost(comparison.summary))]
    operators, left = comparison.operators, comparison.left
    rows = [[kind, *map(str, counts)] for kind, counts in zip(operators.index, operators.to_numpy())]
    tables.append(("operators", ["", *operators], rows))
    if not left.empty:
        tables.append(("left in float", list(left), left.to_numpy().tolist()))
    for title, errors in (("one tensor alone", comparison.layers), ("inside", comparison.tensors)):
        if not errors.empty:
            tables.append((f"{title}, the worst first", *_worst(errors)))
    return tables


def _quality(summary: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    header = ["", "SNR\ndB", "least", *(f"× {level:g}" for level in LEVELS[1:])]
    header += [METRICS[metric].label for metric in SCORES]
    keys = ["snr", "snr_min", *(f"snr_{level:g}" for level in LEVELS[1:])]
    rows = []
    for name, row in summary.iterrows():
        scores = []
        for metric in SCORES:
            difference = row[metric] - summary[metric].iloc[0]
            digits = METRICS[metric].digits + 1
            scores.append(f"{row[metric]:.{digits}f}" + (f" ({difference:+.{digits}f})" if len(rows) else ""))
        rows.append([str(name), *(_number(row[key], ".1f") for key in keys), *scores])
    return header, rows


def _cost(summary: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    rows = [
        [
            str(name),
            _number(100 * row["integer_macs"], ".4g", " %"),
            *(_number(row[key] / 1024, ",.1f") for key in ("bytes", "arena_bytes")),
            _number(row["step_ms"], ".3f"),
        ]
        for name, row in summary.iloc[1:].iterrows()
    ]
    return ["", "integers", "file\nKiB", "arena\nKiB", "CPU of a\nhop, ms"], rows


def _worst(layers: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """Return the header and rows of a table with a ranking for every network or file."""
    columns = []
    for name in layers:
        ranked = layers[name].dropna().sort_values().iloc[:_WORST]
        columns.append([f"{tensor} {decibels:.1f}" for tensor, decibels in ranked.items()])
    return [f"{name}: tensor, dB" for name in layers], [list(row) for row in zip(*columns)]


def _number(value: float, shape: str, unit: str = "") -> str:
    return _NONE if np.isnan(value) else f"{value:{shape}}{unit}"


def figure(comparison: Comparison) -> Figure:
    """Draw the output SNR of every file by level of the input, and the SNR of tensors below it.

    The panels of tensors show the output SNR if each is rounded alone, and the SNR of those inside files against those
    of the float file, for the tensors that lose most in any network or file.
    """
    ranked = {
        "output SNR with this tensor alone rounded [dB]": comparison.layers,
        "SNR inside the file against the float file [dB]": comparison.tensors,
    }
    ranked = {label: errors for label, errors in ranked.items() if not errors.empty}
    with matplotlib.rc_context(OPEN_STYLE):
        result = Figure(figsize=(10, 3.2 + 3.8 * len(ranked)), dpi=150, layout="constrained")
        panels = result.subplots(1 + len(ranked), squeeze=False, height_ratios=[3.2, *[3.8] * len(ranked)])[:, 0]
        _draw_levels(panels[0], comparison.summary[comparison.summary["integer_macs"] > 0])
        for panel, (label, errors) in zip(panels[1:], ranked.items()):
            _draw_tensors(panel, errors, label)
    return result


def _draw_levels(panel, summary: pd.DataFrame) -> None:
    keys = {f"× {level:g}": "snr" if level == LEVELS[0] else f"snr_{level:g}" for level in LEVELS}
    width = 0.8 / len(keys)
    for number, (label, key) in enumerate(keys.items()):
        positions = np.arange(len(summary)) + (number - (len(keys) - 1) / 2) * width
        drawn = panel.bar(positions, summary[key], width, label=f"input {label}", **bars(number))
        panel.bar_label(drawn, fmt="%.1f", fontsize=7)
    panel.set_xticks(range(len(summary)), [name.replace(" ", "\n").replace(":", ":\n") for name in summary.index])
    panel.set(ylabel="output SNR\nagainst float [dB]")
    panel.legend(frameon=False, ncols=len(keys), loc="lower left", bbox_to_anchor=(0, 1))


def _draw_tensors(panel, errors: pd.DataFrame, label: str) -> None:
    worst = errors.loc[errors.min(axis=1).sort_values(kind="stable").index[:_DRAWN]]
    for number, name in enumerate(worst):
        style = series(number) | {"linestyle": "none", "markersize": 5}
        panel.plot(worst[name], range(len(worst)), label=name, **style)
    panel.set_yticks(range(len(worst)), worst.index, fontsize=8)
    panel.invert_yaxis()  # the worst on top
    panel.set_xlabel(label)
    if len(worst) < len(errors):
        panel.set_title(f"the {len(worst)} worst of {len(errors)} tensors", loc="left", fontsize=9)
    panel.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    panel.grid(True, color=GRID, linewidth=0.6)
