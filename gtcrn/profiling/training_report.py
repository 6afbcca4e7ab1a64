"""The report of `gtcrn.profiling.training` as text, as numbers and as a figure."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import rich.table
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gtcrn.files import write_text
from gtcrn.plots.figures import OPEN_STYLE, save
from gtcrn.plots.palette import GRID, bars, series
from gtcrn.plots.tables import markdown_table, rich_table, write_csv
from gtcrn.profiling.training import FILE_SECONDS, PARTS, PLAIN, Profile

SETTING = ["model", "batch", "seconds", "threads", "width"]
GROWING = {"batch": "crops in a batch", "seconds": "seconds of a crop", "width": "times the width of the model"}
NOTES = [
    "plain: the network as a script would write it with PyTorch's operators; torch, numba: the same network by this "
    "framework with kernels=torch or numba. All took turns in one run: compare within one run only.",
    "CPU: processor time, of all threads together; wall: by the clock. Both are medians, and without data. × faster: "
    "than the plain form by CPU time, median over rounds of the ratio in the same round, with its extremes.",
    "memory: by which a fresh process grows at most in two steps. operators: in the graph of gradients; kernels: those "
    "of them that are this framework's own.",
    f"whole file: {FILE_SECONDS} s at once. hop: of a stream in eager PyTorch, CPU; plain forms and models that look "
    "ahead can't stream.",
]
_NONE = "–"

Table = tuple[str, list[str], list[list[str]]]  # title, header, rows


def write(profile: Profile, folder: Path) -> list[Path]:
    """Write `training.md`, `.csv` and `.png`, and `training_files.csv`, and return their paths."""
    paths = [folder / f"training{end}" for end in (".md", ".csv", "_files.csv", ".png")]
    parts = ["# Speed of training"]
    for title, header, rows in _tables(profile):
        parts += [f"## {title}", markdown_table([name.replace("\n", " ") for name in header], rows)]
    parts += ["\n".join(f"- {note}" for note in NOTES), "![Parts of a step, and how it grows](training.png)"]
    write_text(paths[0], "\n\n".join(parts) + "\n")
    write_csv(profile.steps, paths[1], float_format="%.6g")
    write_csv(profile.files, paths[2], float_format="%.6g")
    save(figure(profile.steps), paths[3])
    return paths


def terminal(profile: Profile) -> list[rich.table.Table]:
    """Return the tables of the report for `rich.print`."""
    return [rich_table(*table) for table in _tables(profile)]


def _tables(profile: Profile) -> list[Table]:
    like = _like_first(profile.steps, "batch", "seconds", "width")
    first = _like_first(like, "threads")
    return [
        ("CPU time of a step of training", *_cpu(profile.steps)),
        ("throughput", *_throughput(like)),
        ("CPU time of the parts of a step", *_parts(first)),
        ("what ran", *_what_ran(first)),
        (f"a file of {FILE_SECONDS} s on one thread", *_files(profile.files)),
    ]


def _like_first(steps: pd.DataFrame, *keys: str) -> pd.DataFrame:
    """Return the rows with the same values under these keys as the first row of their model."""
    first = steps.groupby("model", sort=False)[list(keys)].transform("first")
    return steps[(steps[list(keys)] == first).all(axis=1)]


def _cpu(steps: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """Return a row for each setting with the times of all forms beside each other."""
    forms = list(steps["form"].unique())
    others = [form for form in forms if form != PLAIN]
    rows = []
    for (model, batch, seconds, threads, width), group in steps.groupby(SETTING, sort=False):
        by_form = group.set_index("form").reindex(forms)
        times = [_ms(value) for value in by_form["cpu"]]
        ratios = [_ratio(by_form.loc[form]) for form in others]
        rows.append([model, f"{batch} × {seconds:g} s", str(threads), f"{width:g}", *times, *ratios])
    header = ["model", "batch", "threads", "width", *(f"{form}\nms" for form in forms)]
    return header + [f"{form}\n× faster" for form in others], rows


def _throughput(steps: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    rows = [
        [row["model"], row["form"], str(row["threads"]), _ms(row["wall"]), f"{1 / row['wall']:.3g}",
         f"{row['real_time']:.3g}"]
        for _, row in steps.iterrows()
    ]  # fmt: skip
    return ["model", "form", "threads", "wall\nms", "steps\nper s", "s of audio\nper s of CPU"], rows


def _parts(steps: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    rows = [[row["model"], row["form"], *(_ms(row[part]) for part in PARTS)] for _, row in steps.iterrows()]
    return ["model", "form", *(f"{part}\nms" for part in PARTS)], rows


def _what_ran(steps: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    rows = [
        [
            row["model"],
            row["form"],
            _number(row["memory_bytes"] / 2**20, ",.0f"),
            f"{row['operators']:,}",
            row["kernels"],
        ]
        for _, row in steps.iterrows()
    ]
    return ["model", "form", "memory\nMiB", "operators", "kernels"], rows


def _files(files: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    rows = [
        [row["model"], row["form"], _ms(row["cpu"]), f"{row['real_time']:.3g}", _ratio(row),
         _number(row["hop_ms"], ".2f")]
        for _, row in files.iterrows()
    ]  # fmt: skip
    return ["model", "form", "CPU\nms", "× real\ntime", "× faster", "hop\nms"], rows


def _ratio(row: pd.Series) -> str:
    return _NONE if np.isnan(row["ratio"]) else f"{row['ratio']:.2f} ({row['ratio_min']:.2f}–{row['ratio_max']:.2f})"


def _ms(seconds: float) -> str:
    return _number(1e3 * seconds, ",.0f" if seconds >= 0.1 else ".3g")


def _number(value: float, shape: str) -> str:
    return _NONE if np.isnan(value) else f"{value:{shape}}"


def figure(steps: pd.DataFrame) -> Figure:
    """Draw a row for each model: the parts of a step of each form, and its growth with batch, length and width."""
    models, forms = list(steps["model"].unique()), list(steps["form"].unique())
    growing = [key for key in GROWING if steps[key].nunique() > 1]
    with matplotlib.rc_context(OPEN_STYLE):
        result = Figure(figsize=(5 + 2.8 * len(growing), 0.6 + 2.4 * len(models)), dpi=150, layout="constrained")
        panels = result.subplots(len(models), 1 + len(growing), squeeze=False)
        for row, model in zip(panels, models):
            own = steps[steps["model"] == model]
            _draw_parts(row[0], _like_first(own, *SETTING))
            row[0].set_title(model, loc="left", fontweight="bold")
            for panel, key in zip(row[1:], growing):
                _draw_growth(panel, _like_first(own, *(name for name in SETTING if name != key)), key, forms)
        result.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside upper left", ncols=4, frameon=False)
        if growing:
            handles = panels[0, 1].get_legend_handles_labels()
            result.legend(*handles, loc="outside upper right", ncols=3, frameon=False)
    return result


def _draw_parts(panel: Axes, steps: pd.DataFrame) -> None:
    left = np.zeros(len(steps))
    for number, part in enumerate(PARTS):
        width = 1e3 * steps[part].to_numpy()
        panel.barh(steps["form"], width, left=left, height=0.6, label=part, **bars(number))
        left += width
    panel.invert_yaxis()
    panel.set_xlabel("CPU time of a step [ms]")


def _draw_growth(panel: Axes, steps: pd.DataFrame, key: str, forms: list[str]) -> None:
    for number, form in enumerate(forms):
        points = steps[steps["form"] == form].sort_values(key)
        panel.plot(points[key], 1e3 * points["cpu"], label=form, markersize=4, **series(number))
    panel.set(xlabel=GROWING[key], xticks=sorted(steps[key].unique()))
    panel.set(xlim=(0, None), ylim=(0, None))  # what grows in proportion is a line through the corner
    panel.xaxis.set_major_formatter("{x:g}")
    panel.yaxis.set_major_formatter("{x:,g}")
    panel.grid(True, color=GRID, linewidth=0.6)
    panel.set_axisbelow(True)
