"""Figures of a sweep; each function returns a figure and its caption, or the reason why there is nothing to draw."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator
from pandas.api.types import is_numeric_dtype

from gtcrn.plots.labels import label_points
from gtcrn.plots.palette import BLUE, GREY, GRID, PALE, SCORE, SERIES, VERMILLION, series
from gtcrn.reports.paired import NOISY, RESAMPLES
from gtcrn.reports.runs import curves
from gtcrn.reports.sweeps import (
    Measure,
    Sweep,
    clipped,
    compared_measures,
    comparisons,
    name,
    pareto,
    short_names,
    shown_measures,
    shown_value,
    system_name,
)

_LEVELS = 12  # a knob of more values than this is drawn as a continuous one
_LEAST_VALUES = 3  # of a number that quality is drawn against
_MAPPED = 5  # most knobs in maps, of which there is one for every pair
_COLOURED = len(SERIES)  # most learning curves with a colour of their own
_KEYED = 20  # most points in the legend
_MANY_TIMES = 30  # ratio of largest to smallest value from which an axis is logarithmic
_BINS = 100  # of steps, since the training loss of single steps is noisy
_COMPARED = 30  # most configurations in a forest plot
_VERDICTS = {  # of a paired comparison: its sign, and how it is drawn
    1: {"color": BLUE, "marker": "o", "label": "better"},
    0: {"color": GREY, "marker": "D", "markerfacecolor": "white", "label": "open"},
    -1: {"color": VERMILLION, "marker": "s", "label": "worse"},
}
_NO_RESULT = "no finished run has a result"


def forest_figure(sweep: Sweep) -> tuple[Figure, str] | str:
    """Draw the paired differences from the reference with their intervals, with a caption; or return why it can't.

    There is a panel for each measure, and a row for each configuration from the best one on.
    """
    systems = [system for system in sweep.means.index if system != sweep.reference][:_COMPARED]
    panels_of = {measure: comparisons(sweep, measure).reindex(systems) for measure in compared_measures(sweep)}
    panels_of = {measure: rows for measure, rows in panels_of.items() if rows["low"].notna().any()}
    if not panels_of:
        return "no two configurations were scored on the same two files or more"

    columns = len(panels_of)
    figure = Figure(figsize=(9, 1.5 + 0.3 * len(systems)), dpi=150, layout="constrained")
    panels = figure.subplots(1, columns, sharey=True, squeeze=False).ravel()
    places = np.arange(len(systems))
    for panel, (measure, rows) in zip(panels, panels_of.items()):
        panel.axvline(0, color=GREY, linewidth=1, linestyle="--", zorder=0)
        better = measure.goodness(np.sign(rows["difference"])) * ((rows["low"] > 0) | (rows["high"] < 0))
        for sign, style in _VERDICTS.items():
            of = (better == sign).to_numpy()
            difference, low, high = rows.loc[of, ["difference", "low", "high"]].to_numpy(dtype=float).T
            arms = np.maximum([difference - low, high - difference], 0)
            panel.errorbar(difference, places[of], xerr=arms, linestyle="none", markersize=5, capsize=2, **style)
        _label(panel, f"{measure.label} {'→' if measure.more_is_better else '←'} better", "")
        panel.xaxis.set_major_locator(MaxNLocator(4))
    panels[0].set_yticks(places, [_wrapped(sweep.names[system]) for system in systems])
    panels[0].set_ylim(len(systems) - 0.5, -0.5)
    handles = [Line2D([], [], linestyle="none", markersize=5, **style) for style in _VERDICTS.values()]
    figure.legend(handles=handles, loc="outside lower right", ncols=3, frameon=False)
    reference = system_name(sweep, sweep.reference)
    caption = f"Mean difference from {reference} on the same files, with 95 % intervals of {RESAMPLES:,} resamples."
    if left_out := len(sweep.means) - len(systems) - (sweep.reference != NOISY):
        caption += f" The best {len(systems)} configurations; {left_out} more are in the table."
    return figure, caption


def cost_figure(sweep: Sweep, column: str, label: str) -> tuple[Figure, str] | str:
    """Draw quality against a cost, with a caption; or return why it can't be drawn."""
    points = _scored(sweep)
    if points.empty:
        return _NO_RESULT
    if column not in points or points[column].isna().all():
        return f"no run tells its {label}"
    points = points[points[column].notna()]
    if points[column].nunique() < 2:
        return f"no two configurations differ in {label}"
    measure, quality = sweep.measure, points[sweep.measure.column]
    front = points[pareto(points[column].to_numpy(), measure.goodness(quality).to_numpy())].sort_values(column)
    dominated = points.drop(front.index)
    keyed = pd.concat([front, dominated]).iloc[:_KEYED]

    figure = Figure(figsize=(9, max(4.5, 1.1 + 0.36 * len(keyed))), dpi=150, layout="constrained")
    panel = figure.subplots()
    deviation = sweep.deviations.loc[points.index, measure.column]
    panel.errorbar(points[column], quality, deviation, fmt="none", ecolor=PALE, elinewidth=1, capsize=2, zorder=1)
    on_front = {"marker": "o", "markersize": 5, "color": BLUE, "linewidth": 1}
    below = {"marker": "s", "markersize": 4, "color": "white", "markeredgecolor": GREY, "linestyle": "none"}
    panel.plot(dominated[column], dominated[measure.column], **below, zorder=2)
    panel.plot(front[column], front[measure.column], drawstyle="steps-post", **on_front, zorder=3)
    numbers = dict(zip(sweep.means.index, map(str, range(1, len(sweep.means) + 1))))  # rows of the sweep's table
    handles = [Line2D([], [], **on_front, label="Pareto front")]
    if len(dominated):
        handles.append(Line2D([], [], **below, label="dominated by it"))
    for kind, row in keyed.iterrows():
        text = _wrapped(f"{numbers[kind]}: {sweep.names[kind]}")
        text += f"\n{measure.show(row[measure.column])} at {row[column]:.4g}"
        style = on_front | {"linestyle": "none"} if kind in front.index else below
        handles.append(Line2D([], [], **style, label=text))
    if more := len(points) - len(keyed):
        handles.append(Line2D([], [], linestyle="none", label=f"and {more} more, numbered from the best on"))
    if points[column].max() > _MANY_TIMES * points[column].min() > 0:
        panel.set_xscale("log")
    noisy = measure.noisy(sweep.runs)
    if np.isfinite(noisy):
        panel.axhline(noisy, color=VERMILLION, linewidth=1, linestyle="--", zorder=0)
        noise = {"color": VERMILLION, "linestyle": "--", "label": f"noisy input {measure.show(noisy)}"}
        handles.insert(0, Line2D([], [], **noise))
    _label(panel, label, measure.label)
    _legend(figure, handles, textwrap.fill(f"{measure.label} at {label}", 40))
    panel.margins(0.08)
    figure.draw_without_rendering()  # lays out the panel, so that the room for labels is known
    places = {numbers[kind]: (row[column], row[measure.column]) for kind, row in points.iterrows()}
    label_points(panel, places, between=", ", path_effects=[withStroke(linewidth=2, foreground="white")])
    what = "highest" if measure.more_is_better else "lowest"
    caption = f"{measure.label} against {label}. The line is the Pareto front, the {what} value for at most this cost"
    caption += "; bars are standard deviations over seeds." if deviation.notna().any() else "."
    caption += " Numbers count from the best configuration on, as the rows of the table."
    return figure, caption + (" The dashed line is the noisy input." if np.isfinite(noisy) else "")


def knob_figure(sweep: Sweep) -> tuple[Figure, str] | str:
    """Draw quality against the number that was swept over most values, with a caption; or return why it can't.

    There is a panel for each measure, and a line for each choice of the other knobs.
    """
    points = _scored(sweep)
    if points.empty:
        return _NO_RESULT
    if "task" in sweep.knobs:  # keys that another task lacks are not null
        points = points[points["task"] == points["task"].mode()[0]]
    names = short_names(sweep.knobs)
    axes = {knob: _axis(names[knob], points[knob]) for knob in sweep.knobs if is_numeric_dtype(points[knob])}
    values = {knob: points[knob].nunique(dropna=False) for knob, axis in axes.items() if axis}
    knob = max(values, key=lambda knob: values[knob], default=None)
    if knob is None or values[knob] < _LEAST_VALUES:
        return f"no number was swept over {_LEAST_VALUES} values"
    others = [other for other in sweep.knobs if other != knob and points[other].nunique(dropna=False) > 1]
    groups = points.groupby(others or (lambda _: "all"), dropna=False)
    lines = [(name(line.iloc[0], others), line) for _, line in groups]
    if len(lines) > _COLOURED:
        return f"the other knobs have {len(lines)} choices, more than there are colours"
    axis, shown = axes[knob], shown_measures(sweep)

    figure = Figure(figsize=(9, 1.9 * len(shown) + 0.6), dpi=150, layout="constrained")
    panels = figure.subplots(len(shown), sharex=True, squeeze=False).ravel()
    for panel, measure in zip(panels, shown):
        for number, (_, line) in enumerate(lines):
            positions = axis.positions[line.index].sort_values()
            quality, deviation = line.loc[positions.index, measure.column], sweep.deviations[measure.column]
            style = series(number) | {"markersize": 4, "linewidth": 1.2, "capsize": 2}
            panel.errorbar(positions, quality, deviation[positions.index], **style)
        noisy = measure.noisy(sweep.runs)
        if np.isfinite(noisy):
            panel.axhline(noisy, color=GREY, linewidth=1, linestyle="--", zorder=0)
        _label(panel, "", measure.label)
    _draw_axis(panels[-1].xaxis, axis)
    if axis.log:
        panels[-1].set_xscale("log")
    panels[-1].set_xlabel(axis.label)
    if others:
        handles = [Line2D([], [], **series(number), label=_wrapped(label)) for number, (label, _) in enumerate(lines)]
        _legend(figure, handles, "")
    caption = f"Quality against {axis.label}"
    caption += f", in which {shown_value(None)} stands for null." if points[knob].isna().any() else "."
    if sweep.deviations.loc[points.index, [measure.column for measure in shown]].notna().any(axis=None):
        caption += " Bars are standard deviations over seeds."
    if np.isfinite([measure.noisy(sweep.runs) for measure in shown]).any():
        caption += " The dashed line is the noisy input."
    return figure, caption


def map_figure(sweep: Sweep) -> tuple[Figure, str] | str:
    """Draw a map of quality for every pair of knobs, with a caption; or return why it can't be drawn."""
    points = _scored(sweep)
    if points.empty:
        return _NO_RESULT
    names = short_names(sweep.knobs)
    axes = [axis for knob in sweep.knobs if (axis := _axis(names[knob], points[knob]))]
    pairs = [pair for pair in combinations(axes[:_MAPPED], 2) if _is_map(*pair)]
    if not pairs:
        return "no two knobs were swept over a grid of which at least half is there"
    measure = sweep.measure
    quality, noisy = points[measure.column], measure.noisy(sweep.runs)
    worst, best = np.percentile(measure.goodness(quality), (5 if len(points) > _LEVELS else 0, 100))
    limits = sorted((worst, best) if measure.more_is_better else (-worst, -best))
    colours = matplotlib.colormaps[SCORE if measure.more_is_better else f"{SCORE}_r"]
    colouring = ScalarMappable(Normalize(*limits), colours)

    columns = min(len(pairs), 3)
    rows = -(-len(pairs) // columns)
    width, height = (6.5, 4.5) if len(pairs) == 1 else (3.8 * columns + 0.8, 3.2 * rows + 0.3)
    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for panel, (x, y) in zip(panels, pairs):
        draw = _draw_cells if x.ticks and y.ticks else _draw_points
        draw(panel, x, y, measure, quality, noisy, colouring)
        _draw_axis(panel.xaxis, x)
        _draw_axis(panel.yaxis, y)
        _label(panel, x.label, y.label)
    for panel in panels[len(pairs) :]:
        panel.set_visible(False)
    bar = figure.colorbar(
        colouring, ax=list(panels), label=measure.label, pad=0.01, fraction=0.03, aspect=12 * rows + 8
    )
    bar.outline.set_linewidth(0.6)
    caption = _map_caption(sweep, axes, pairs)
    if np.isfinite(noisy):
        caption += f" The noisy input has {measure.show(noisy)}; what is worse is crossed out."
        if limits[0] <= noisy <= limits[1]:
            bar.ax.axhline(noisy, color="white", linewidth=1.5)
    return figure, caption


def curve_figure(sweep: Sweep) -> tuple[Figure, str] | str:
    """Draw the training loss and the monitored validation measure by step, with a caption; or return why it can't."""
    monitored = sweep.runs["monitor"].mode() if "monitor" in sweep.runs else []
    logged = curves(sweep.runs, ["train/loss", *monitored])
    logged = logged[np.isfinite(logged["value"])]
    logged["configuration"] = logged["run"].map(dict(zip(sweep.runs["run"], sweep.configurations)))
    noisy_names = {metric.replace("val/", "val/noisy_"): metric for metric in monitored}
    noisy_means = curves(sweep.runs, list(noisy_names)).groupby("metric")["value"].mean().rename(noisy_names).to_dict()
    lines = {metric: _binned(values) for metric, values in logged.groupby("metric")}
    lines = {metric: table for metric, table in lines.items() if table.groupby(level="configuration").size().max() > 1}
    if not lines:
        return "no run has logged two steps in its metrics.csv"
    drawn = set().union(*(table.index.unique("configuration") for table in lines.values()))
    ranked = [*(kind for kind in sweep.means.index if kind in drawn), *sorted(drawn.difference(sweep.means.index))]
    own_style = {
        kind: series(number) | {"markevery": 0.12, "markersize": 4} for number, kind in enumerate(ranked[:_COLOURED])
    }

    figure = Figure(figsize=(9, 3 * len(lines) + 0.6), dpi=150, layout="constrained")
    panels = figure.subplots(len(lines), sharex=True, squeeze=False).ravel()
    for panel, (metric, table) in zip(panels, lines.items()):
        for kind in reversed(ranked):  # the best on top
            if kind in table.index:
                line = table.loc[kind]
                style = own_style.get(kind, {"color": PALE, "linewidth": 0.6})
                panel.plot(line.index, line["mean"], **{"linewidth": 1.2} | style)
                if kind in own_style:
                    panel.fill_between(
                        line.index, line["min"], line["max"], color=style["color"], alpha=0.2, linewidth=0
                    )
        if metric.endswith("loss"):
            low, high = np.nanpercentile(table["mean"], (0, 98))  # the first steps, or one that diverged
            margin = 0.05 * (high - low) or 1
            panel.set_ylim(low - margin, high + margin)
        noisy = noisy_means.get(metric, np.nan)
        if np.isfinite(noisy):
            panel.axhline(noisy, color=GREY, linewidth=1, linestyle="--", zorder=0)
        _label(panel, "", metric)
    panels[-1].set_xlabel("training step")
    handles = [Line2D([], [], **style, label=_wrapped(sweep.names[kind])) for kind, style in own_style.items()]
    if len(ranked) > len(handles):
        handles.append(Line2D([], [], color=PALE, label=f"{len(ranked) - len(handles)} more"))
    if noisy_means:
        handles.append(Line2D([], [], color=GREY, linestyle="--", label="noisy input"))
    _legend(figure, handles, f"best by {sweep.measure.label}" if sweep.measure and len(ranked) > _COLOURED else "")
    caption = "Learning curves: the mean over the seeds, and between their extremes a band"
    caption += f"; the best {_COLOURED} configurations in colour." if len(ranked) > _COLOURED else "."
    return figure, caption + (" The dashed line is the noisy input." if noisy_means else "")


class _Axis(NamedTuple):
    """The axis of a knob in a map: the position of each configuration, and tick labels if there are few positions."""

    label: str
    positions: pd.Series
    ticks: list[str]
    log: bool


def _axis(label: str, values: pd.Series) -> _Axis | None:
    """Return the axis of a knob; None if all points have one value, or if it has many values that are no numbers."""
    levels = sorted(values.dropna().unique(), key=lambda value: (isinstance(value, str), value))
    levels += [None] if values.isna().any() else []
    if len(levels) < 2:
        return None
    if len(levels) <= _LEVELS:
        position_of = {level: position for position, level in enumerate(levels)}
        positions = values.map(lambda value: position_of[None if pd.isna(value) else value])
        return _Axis(label, positions, [clipped(shown_value(level), 20) for level in levels], False)
    numbers = pd.to_numeric(values, errors="coerce")
    if numbers.isna().any():
        return None
    return _Axis(label, numbers, [], numbers.max() > _MANY_TIMES * numbers.min() > 0)


def _is_map(x: _Axis, y: _Axis) -> bool:
    """Return whether a pair of knobs can be drawn as a map: at least half of a grid must be filled."""
    if not (x.ticks and y.ticks):
        return True
    filled = len(set(zip(x.positions, y.positions)))
    return filled >= max(4, len(x.ticks) * len(y.ticks) / 2)


def _draw_cells(
    panel, x: _Axis, y: _Axis, measure: Measure, quality: pd.Series, noisy: float, colouring: ScalarMappable
) -> None:
    """Draw a grid that shows the best configuration of each cell."""
    best = measure.goodness(quality).groupby([y.positions.to_numpy(), x.positions.to_numpy()]).max()
    cells = np.full((len(y.ticks), len(x.ticks)), np.nan)
    for (row, column), value in measure.goodness(best).items():
        cells[row, column] = value
        dark = sum(colouring.to_rgba(value)[:3]) < 1.5
        ink = "white" if dark else "black"
        panel.text(column, row, measure.show(value), ha="center", va="center", color=ink, size=8)
        if measure.goodness(value) < measure.goodness(noisy):
            panel.plot([column - 0.4, column + 0.4], [row - 0.4, row + 0.4], color=ink, linewidth=0.8)
    panel.imshow(cells, origin="lower", aspect="auto", cmap=colouring.cmap, norm=colouring.norm)
    panel.set_facecolor(GRID)


def _draw_points(
    panel, x: _Axis, y: _Axis, measure: Measure, quality: pd.Series, noisy: float, colouring: ScalarMappable
) -> None:
    """Draw a point for each configuration, the best one on top with a ring."""
    order = measure.goodness(quality).sort_values().index
    edges = ["white"] * (len(order) - 1) + [VERMILLION]
    colours = colouring.to_rgba(quality[order])
    panel.scatter(
        x.positions[order],
        y.positions[order],
        s=34,
        c=colours,
        edgecolors=edges,
        linewidths=[0.3] * (len(order) - 1) + [1.6],
    )
    worse = quality.index[measure.goodness(quality) < measure.goodness(noisy)]
    panel.scatter(x.positions[worse], y.positions[worse], s=20, c="black", marker="x", linewidths=0.8)
    for axis, set_scale in ((x, panel.set_xscale), (y, panel.set_yscale)):
        if axis.log:
            set_scale("log")


def _draw_axis(shown, axis: _Axis) -> None:
    if axis.ticks:
        slanted = shown.axis_name == "x" and sum(map(len, axis.ticks)) > 36
        style = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"} if slanted else {}
        shown.set_ticks(range(len(axis.ticks)), axis.ticks, **style)
    elif not axis.log:
        shown.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))


def _map_caption(sweep: Sweep, axes: Sequence[_Axis], pairs: Sequence[tuple[_Axis, _Axis]]) -> str:
    label = sweep.measure.label
    parts = []
    if any(x.ticks and y.ticks for x, y in pairs):
        others = " of the best configuration with these two values, whatever the other knobs" * (len(sweep.knobs) > 2)
        parts.append(f"Cells: mean {label} over the seeds{others}.")
    if any(not (x.ticks and y.ticks) for x, y in pairs):
        parts.append(f"Points: a configuration each, coloured by {label}; the best one has a ring.")
    if len(axes) > _MAPPED:
        parts.append(f"The first {_MAPPED} of {len(axes)} knobs are drawn.")
    return " ".join(parts)


def _binned(values: pd.DataFrame) -> pd.DataFrame:
    """Return mean, min and max over the runs by configuration and step; many steps are averaged to `_BINS`."""
    width = max(1, values["step"].max() / _BINS) if values["step"].nunique() > _BINS else 1
    steps = ((values["step"] // width) * width).rename("step")
    by_run = values["value"].groupby([values["configuration"], steps, values["run"]]).mean()
    return by_run.groupby(level=["configuration", "step"]).agg(["mean", "min", "max"])


def _scored(sweep: Sweep) -> pd.DataFrame:
    """Return the configurations that have a value of the measure."""
    if not sweep.measure:
        return sweep.means[:0]
    return sweep.means[np.isfinite(sweep.means[sweep.measure.column])]


def _label(panel, x: str, y: str) -> None:
    panel.set_xlabel(x)
    panel.set_ylabel(y)
    panel.spines[["top", "right"]].set_visible(False)


def _legend(figure: Figure, handles: Sequence[Line2D], title: str, **style) -> None:
    legend = figure.legend(handles=handles, title=title, loc="outside right upper", frameon=False, fontsize=8, **style)
    legend.set_alignment("left")


def _wrapped(text: str) -> str:
    return "\n".join(textwrap.wrap(textwrap.shorten(text, 160, placeholder=" …"), 40, break_on_hyphens=False))
