"""Runs compared: tables and figures of what their configurations gave.

sweep = compare(read_runs("outputs/2025-01-31/12-00-00_sweep"))
write(sweep, Path("report"))
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
import pandas as pd
import rich.box
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from gtcrn.analysis.figures import STYLE
from gtcrn.analysis.runs import RESULTS, config_columns, configured, curves, differing
from gtcrn.analysis.tables import markdown_table
from gtcrn.errors import UserError
from gtcrn.metrics import METRICS

_HEADLINE = ("pesq_wb", "estoi", "si_sdr")  # beside the chosen measure
_COSTS = {
    "parameters": ("cost.parameters_trainable", "{:,.0f}"),
    "MMACs/s": ("cost.mmacs_exact", "{:.2f}"),
    "latency ms": ("cost.latency_ms", "{:.1f}"),
}
_ROWS, _ERRORS = 20, 5  # shown in a terminal

_SHARED = {  # told once where they are the same in all runs; a checkpoint has its own model
    "train": ("task", "model", "streaming", "loss", "training", "data"),
    "evaluate": ("task", "data"),
}
_LEVELS = 12  # a knob of more values than this is drawn as a continuous one
_MAPPED = 5  # knobs in maps; every pair of them is one
_COLOURED = 8  # configurations with a colour of their own among learning curves
_KEYED = 20  # points of the front that a picture explains
_TAB10 = (0, 1, 2, 3, 4, 6, 8, 9)  # without grey, which the others have
_MANY_TIMES = 30  # a range that takes a logarithmic axis
_BINS = 100  # of steps; the training loss of single steps is noise
_DARK, _PALE = "#31456b", "#c3c9d4"


class Measure(NamedTuple):
    """A quality: its name, its column in `read_runs`, how it is shown and whether more of it is better."""

    name: str
    column: str
    label: str
    form: str
    more_is_better: bool

    def show(self, value: float) -> str:
        return "–" if np.isnan(value) else self.form.format(value)

    def goodness(self, values: pd.Series) -> pd.Series:
        """Of which more is always better."""
        return values if self.more_is_better else -values


class Sweep(NamedTuple):
    """Runs that differ in `knobs`, and in their seeds.

    runs:           those of `read_runs`
    configurations: the number of each run's configuration
    names:          a line for each configuration: `width_mult=0.5 r=8`
    measure:        None where no run has a result
    means:          one row per configuration with finished runs, the best by `measure` first: the knobs, `n` (its
                    finished runs) and the means of all results over these
    deviations:     the same rows, standard deviations (ddof = 1) of the results; nan where n = 1
    """

    runs: pd.DataFrame
    configurations: pd.Series
    names: pd.Series
    knobs: list[str]
    measure: Measure | None
    means: pd.DataFrame
    deviations: pd.DataFrame


def measures(runs: pd.DataFrame) -> dict[str, Measure]:
    """The qualities that finished runs have a value of, by name: pesq_wb and improvement_pesq_wb of the test,
    val/pesq_wb and val/loss of the last validation."""
    found = {}
    for column in runs.columns[runs.notna().any()]:
        for prefix, kept in (
            ("test.enhanced_", ""),
            ("test.improvement_", "improvement_"),
            ("validation.val/", "val/"),
        ):
            if column.startswith(prefix):
                metric = column.removeprefix(prefix)
                found[kept + metric] = _measure(kept, metric, column)
    return found


def compare(runs: pd.DataFrame, metric: str | None = None) -> Sweep:
    """Group the runs of `read_runs` by everything that differs between them but the seed.

    metric: a name of `measures`; by default pesq_wb of the test, or its first metric, or the monitored one of the
    validation. Raises UserError for one that no run has, unless there are no results at all.
    """
    knobs = [column for column in differing(runs) if column.split(".")[-1] != "seed"]
    finished = runs[runs["state"] == "finished"]
    if not configured(finished).all():  # who knows in what they differ
        knobs = ["run", *knobs]
    kinds = runs.groupby(knobs, dropna=False, sort=False).ngroup() if knobs else pd.Series(0, runs.index)
    values = runs[knobs][~kinds.duplicated()].set_axis(kinds.unique())
    names = pd.Series({kind: name(row, knobs) for kind, row in values.iterrows()}, dtype=object)

    results = [column for column in runs if column.startswith(RESULTS)]
    grouped = finished[results].groupby(kinds[finished.index])
    means = pd.concat([values, grouped.size().rename("n"), grouped.mean()], axis=1, join="inner")
    measure = _choose(runs, metric)
    if measure:
        ranked = measure.goodness(means[measure.column]).sort_values(ascending=False, kind="stable")
        means = means.loc[ranked.index]
    return Sweep(runs, kinds, names, knobs, measure, means, grouped.std(ddof=1).loc[means.index])


def name(row: pd.Series, knobs: Sequence[str]) -> str:
    """A run or configuration in one line: `width_mult=0.5 r=8`."""
    told = [f"{short}={_clipped(_value(row[knob]), 40)}" for knob, short in short_names(knobs).items()]
    return " ".join(told) or "all alike"


def short_names(knobs: Sequence[str]) -> dict[str, str]:
    """`width_mult` for model.width_mult, unless another knob ends like this."""
    short = {}
    for knob in knobs:
        parts = knob.split(".")
        endings = (".".join(parts[-length:]) for length in range(1, len(parts) + 1))
        short[knob] = next(
            (ending for ending in endings if sum(f".{other}".endswith(f".{ending}") for other in knobs) == 1), knob
        )
    return short


def pareto(cost: np.ndarray, goodness: np.ndarray) -> np.ndarray:
    """(N,) bool: the points that no other beats, by costing no more and being no worse, and better in one of them."""
    return np.array([
        not ((cost <= c) & (goodness >= g) & ((cost < c) | (goodness > g))).any() for c, g in zip(cost, goodness)
    ], dtype=bool)  # fmt: skip


def write(sweep: Sweep, folder: Path) -> list[Path]:
    """Write sweep.csv, sweep.md and the pictures there is something to draw of; returns their paths.

    sweep.csv has every run, failed ones with their error, and every column of `read_runs`, the knobs first.
    """
    folder.mkdir(parents=True, exist_ok=True)
    first = [*sweep.knobs, "seed", "run", "state", "error"]
    first += [sweep.measure.column] if sweep.measure else []
    results = [column for column in sweep.runs if column.startswith(RESULTS) and column not in first]
    facts = sweep.runs.columns.difference([*first, *results, *config_columns(sweep.runs)], sort=False)
    rest = config_columns(sweep.runs).difference(first, sort=False)
    sweep.runs[[*dict.fromkeys(first), *results, *facts, *rest]].to_csv(folder / "sweep.csv", index=False)

    captions = {}
    for file, draw in _FIGURES.items():
        (folder / file).unlink(missing_ok=True)  # of an earlier report
        with matplotlib.rc_context(STYLE):
            drawn = draw(sweep)
        if drawn:
            figure, captions[file] = drawn
            lines = textwrap.fill(captions[file], round(10 * figure.get_figwidth()))  # left of a legend
            figure.suptitle(lines, x=0.01, ha="left", fontsize=8)
            figure.savefig(folder / file)
    (folder / "sweep.md").write_text(markdown(sweep, folder.resolve().name, captions), encoding="utf-8")
    return [folder / file for file in ("sweep.csv", "sweep.md", *captions)]


def markdown(sweep: Sweep, title: str, captions: dict[str, str]) -> str:
    """The report: the table and what its numbers are, the pictures with their captions, the runs without results."""
    parts = [f"# {title}", counts(sweep.runs)]
    if len(sweep.means):
        results = _results(sweep, bold="**{}**", deviating=1 + len(_HEADLINE))
        knobs = sweep.means[sweep.knobs].map(_value).to_numpy()
        rows = [[_escape(cell) for cell in (*left, *right)] for left, right in zip(knobs, results.to_numpy())]
        header = [*short_names(sweep.knobs).values(), *results]
        parts += [markdown_table(header, rows), "\n".join(f"- {note}" for note in notes(sweep))]
    parts += [f"![{caption}]({file})" for file, caption in captions.items()]
    if lines := not_finished(sweep):
        parts += ["## Not finished", "\n".join(f"- {line}" for line in lines)]
    return "\n\n".join(parts) + "\n"


def terminal(sweep: Sweep) -> list[Table | Text]:
    """For `rich.print`, in 80 columns too: the best configurations and the deviations of their measure; the notes,
    and what did not finish."""
    results = _results(sweep, bold="[bold]{}[/bold]", deviating=1)
    results = results.drop(columns=["parameters", "latency ms"], errors="ignore")
    shown = Table("configuration", box=rich.box.SIMPLE_HEAD)
    shown.columns[0].overflow = "fold"
    for heading in results:
        shown.add_column(heading, justify="right")
    for index, row in results.head(_ROWS).iterrows():
        shown.add_row(escape(sweep.names[index]), *row)
    failures = not_finished(sweep)
    below = [*notes(sweep), *failures[:_ERRORS]]
    for left_out, what in ((len(results) - _ROWS, "configurations"), (len(failures) - _ERRORS, "runs not finished")):
        if left_out > 0:
            below.append(f"… and {left_out} more {what} in sweep.md")
    return [Text(counts(sweep.runs)), *([shown] if len(results) else []), Text("\n".join(below) + "\n")]


def counts(runs: pd.DataFrame) -> str:
    """`12 runs: 10 finished, 1 failed, 1 unfinished`"""
    by_state = runs["state"].value_counts()
    states = ", ".join(
        f"{by_state[state]} {state}" for state in ("finished", "failed", "unfinished") if state in by_state
    )
    return f"{len(runs)} {'run' if len(runs) == 1 else 'runs'}: {states}"


def notes(sweep: Sweep) -> list[str]:
    """What the numbers are, what all runs share, and how many numbers are missing."""
    lines = []
    if (sweep.means["n"] > 1).any():
        lines.append("mean ± standard deviation (n − 1) over the n runs that differ in nothing but the seed")
    choices = sweep.runs.drop(columns=sweep.knobs)
    alike = {group: values.dropna().iloc[0] for group, values in choices.items() if values.nunique() == 1}
    if shared := [f"{group}={alike[group]}" for group in _SHARED.get(alike.get("task"), ()) if group in alike]:
        lines.append(f"all runs: {' '.join(shared)}")
    finished = sweep.runs[sweep.runs["state"] == "finished"]
    for measure in _shown(sweep):
        if missing := finished[measure.column].isna().sum():
            lines.append(
                f"{measure.label}: {missing} of {len(finished)} finished runs have none; it is left out of the mean"
            )
    return lines


def not_finished(sweep: Sweep) -> list[str]:
    """A line for every run that failed or is unfinished: which it is, and why."""
    told = [*sweep.knobs, *(["seed"] if sweep.runs["seed"].nunique() > 1 else [])]
    rows = sweep.runs[sweep.runs["state"] != "finished"]
    lines = []
    for known, (_, row) in zip(configured(rows), rows.iterrows()):
        which = f" ({name(row, told)})" if known and told else ""
        lines.append(f"{row['run']}{which}: {row['state']}{', ' if row['error'] else ''}{row['error']}")
    return lines


def cost_figure(sweep: Sweep, column: str, label: str) -> tuple[Figure, str] | None:
    """Quality against a cost, with its caption; None unless configurations differ in the cost."""
    points = _scored(sweep)
    if column not in points or points[column].nunique() < 2:
        return None
    points = points[points[column].notna()]
    measure, quality = sweep.measure, points[sweep.measure.column]
    front = points[pareto(points[column].to_numpy(), measure.goodness(quality).to_numpy())].sort_values(column)
    keyed = front.iloc[np.unique(np.linspace(0, len(front) - 1, _KEYED).round().astype(int))]

    figure = Figure(figsize=(9, max(4.5, 0.8 + 0.36 * len(keyed))), dpi=150, layout="constrained")
    panel = figure.subplots()
    deviation = sweep.deviations.loc[points.index, measure.column]
    panel.errorbar(points[column], quality, deviation, fmt="none", ecolor=_PALE, elinewidth=1, capsize=2, zorder=1)
    panel.scatter(points[column], quality, s=22, color=_PALE, edgecolors="#7d879b", linewidths=0.6, zorder=2)
    panel.plot(front[column], front[measure.column], drawstyle="steps-post", color=_DARK, linewidth=1, zorder=3)
    panel.scatter(front[column], front[measure.column], s=26, color=_DARK, zorder=4)
    handles = []
    for number, (kind, row) in enumerate(keyed.iterrows(), 1):
        place = (row[column], row[measure.column])
        panel.annotate(str(number), place, (-4, 4), textcoords="offset points", ha="right", fontsize=8, color=_DARK)
        told = f"{_wrapped(sweep.names[kind])}\n{measure.show(place[1])} at {place[0]:.4g}"
        handles.append(
            Line2D([], [], linestyle="none", marker=f"${number}$", color=_DARK, markeredgewidth=0, label=told)
        )
    if points[column].max() > _MANY_TIMES * points[column].min() > 0:
        panel.set_xscale("log")
    _label(panel, label, measure.label)
    _legend(figure, handles, "Pareto front", handlelength=1)
    what = "highest" if measure.more_is_better else "lowest"
    caption = f"{measure.label} against {label}. The line is the Pareto front, the {what} value for at most this cost"
    caption += "; bars are standard deviations over seeds." if deviation.notna().any() else "."
    return figure, caption


def map_figure(sweep: Sweep) -> tuple[Figure, str] | None:
    """A map of quality for every pair of knobs, with the caption; None unless two knobs at least were swept."""
    points = _scored(sweep)
    names = short_names(sweep.knobs)
    axes = [axis for knob in sweep.knobs if (axis := _axis(names[knob], points[knob]))]
    pairs = [pair for pair in combinations(axes[:_MAPPED], 2) if _is_map(*pair)]
    if not pairs:
        return None
    measure = sweep.measure
    quality = points[measure.column]
    worst, best = np.percentile(measure.goodness(quality), (5 if len(points) > _LEVELS else 0, 100))
    limits = sorted((worst, best) if measure.more_is_better else (-worst, -best))
    colours = matplotlib.colormaps["viridis" if measure.more_is_better else "viridis_r"]
    colouring = ScalarMappable(Normalize(*limits), colours)

    columns = min(len(pairs), 3)
    rows = -(-len(pairs) // columns)
    width, height = (6.5, 4.5) if len(pairs) == 1 else (3.8 * columns + 0.8, 3.2 * rows + 0.3)
    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for panel, (x, y) in zip(panels, pairs):
        draw = _draw_cells if x.ticks and y.ticks else _draw_points
        draw(panel, x, y, measure, quality, colouring)
        _draw_axis(panel.xaxis, x)
        _draw_axis(panel.yaxis, y)
        _label(panel, x.label, y.label)
    for panel in panels[len(pairs) :]:
        panel.set_visible(False)
    bar = figure.colorbar(
        colouring, ax=list(panels), label=measure.label, pad=0.01, fraction=0.03, aspect=12 * rows + 8
    )
    bar.outline.set_linewidth(0.6)
    return figure, _map_caption(sweep, axes, pairs)


def curve_figure(sweep: Sweep) -> tuple[Figure, str] | None:
    """Training loss and the monitored measure of the validation by step, with the caption; None without curves."""
    monitored = sweep.runs["monitor"].mode() if "monitor" in sweep.runs else []
    logged = curves(sweep.runs, ["train/loss", *monitored])
    logged = logged[np.isfinite(logged["value"])]
    logged["configuration"] = logged["run"].map(dict(zip(sweep.runs["run"], sweep.configurations)))
    lines = {metric: _binned(values) for metric, values in logged.groupby("metric")}
    lines = {metric: table for metric, table in lines.items() if table.groupby(level="configuration").size().max() > 1}
    if not lines:
        return None
    drawn = set().union(*(table.index.unique("configuration") for table in lines.values()))
    ranked = [*(kind for kind in sweep.means.index if kind in drawn), *sorted(drawn.difference(sweep.means.index))]
    own_colour = dict(zip(ranked[:_COLOURED], matplotlib.colormaps["tab10"](_TAB10)))

    figure = Figure(figsize=(9, 3 * len(lines) + 0.6), dpi=150, layout="constrained")
    panels = figure.subplots(len(lines), sharex=True, squeeze=False).ravel()
    for panel, (metric, table) in zip(panels, lines.items()):
        for kind in reversed(ranked):  # the best on top
            if kind in table.index:
                line = table.loc[kind]
                colour = own_colour.get(kind, _PALE)
                panel.plot(line.index, line["mean"], color=colour, linewidth=1.2 if kind in own_colour else 0.6)
                if kind in own_colour:
                    panel.fill_between(line.index, line["min"], line["max"], color=colour, alpha=0.2, linewidth=0)
        if metric.endswith("loss"):
            low, high = np.nanpercentile(table["mean"], (0, 98))  # the first steps, or one that diverged
            margin = 0.05 * (high - low) or 1
            panel.set_ylim(low - margin, high + margin)
        _label(panel, "", metric)
    panels[-1].set_xlabel("step")
    handles = [Line2D([], [], color=colour, label=_wrapped(sweep.names[kind])) for kind, colour in own_colour.items()]
    if len(ranked) > len(handles):
        handles.append(Line2D([], [], color=_PALE, label=f"{len(ranked) - len(handles)} more"))
    _legend(figure, handles, f"best by {sweep.measure.label}" if sweep.measure and len(ranked) > _COLOURED else "")
    caption = "Learning curves: the mean over the seeds, and between their extremes a band"
    return figure, caption + (f"; the best {_COLOURED} configurations in colour." if len(ranked) > _COLOURED else ".")


class _Axis(NamedTuple):
    """A knob in a map: where each configuration stands, and names of the places if they are few."""

    label: str
    positions: pd.Series
    ticks: list[str]
    log: bool


def _axis(label: str, values: pd.Series) -> _Axis | None:
    """None for a knob of which all points have one value, or of many names."""
    levels = sorted(values.dropna().unique(), key=lambda value: (isinstance(value, str), value))
    levels += [None] if values.isna().any() else []
    if len(levels) < 2:
        return None
    if len(levels) <= _LEVELS:
        place = {level: position for position, level in enumerate(levels)}
        positions = values.map(lambda value: place[None if pd.isna(value) else value])
        return _Axis(label, positions, [_clipped(_value(level), 20) for level in levels], False)
    numbers = pd.to_numeric(values, errors="coerce")
    if numbers.isna().any():
        return None
    return _Axis(label, numbers, [], numbers.max() > _MANY_TIMES * numbers.min() > 0)


def _is_map(x: _Axis, y: _Axis) -> bool:
    """A grid is worth a picture if half of it is there."""
    if not (x.ticks and y.ticks):
        return True
    filled = len(set(zip(x.positions, y.positions)))
    return filled >= max(4, len(x.ticks) * len(y.ticks) / 2)


def _draw_cells(panel, x: _Axis, y: _Axis, measure: Measure, quality: pd.Series, colouring: ScalarMappable) -> None:
    """The best of each cell's configurations."""
    best = measure.goodness(quality).groupby([y.positions.to_numpy(), x.positions.to_numpy()]).max()
    cells = np.full((len(y.ticks), len(x.ticks)), np.nan)
    for (row, column), value in measure.goodness(best).items():
        cells[row, column] = value
        dark = sum(colouring.to_rgba(value)[:3]) < 1.5
        panel.text(
            column, row, measure.show(value), ha="center", va="center", color="white" if dark else "black", size=8
        )
    panel.imshow(cells, origin="lower", aspect="auto", cmap=colouring.cmap, norm=colouring.norm)
    panel.set_facecolor("#eeeeee")


def _draw_points(panel, x: _Axis, y: _Axis, measure: Measure, quality: pd.Series, colouring: ScalarMappable) -> None:
    """A point for each configuration; the best above the others, with a ring."""
    order = measure.goodness(quality).sort_values().index
    edges = ["white"] * (len(order) - 1) + ["#d62728"]
    colours = colouring.to_rgba(quality[order])
    panel.scatter(
        x.positions[order],
        y.positions[order],
        s=34,
        c=colours,
        edgecolors=edges,
        linewidths=[0.3] * (len(order) - 1) + [1.6],
    )
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
        parts.append(f"Points: a configuration each, coloured by {label}; the best one has a red ring.")
    if len(axes) > _MAPPED:
        parts.append(f"The first {_MAPPED} of {len(axes)} knobs are drawn.")
    return " ".join(parts)


def _binned(values: pd.DataFrame) -> pd.DataFrame:
    """Mean, min and max over the runs, by configuration and step; many steps are averaged to `_BINS`."""
    width = max(1, values["step"].max() / _BINS) if values["step"].nunique() > _BINS else 1
    steps = ((values["step"] // width) * width).rename("step")
    by_run = values["value"].groupby([values["configuration"], steps, values["run"]]).mean()
    return by_run.groupby(level=["configuration", "step"]).agg(["mean", "min", "max"])


def _scored(sweep: Sweep) -> pd.DataFrame:
    """The configurations that can be drawn."""
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


def _wrapped(told: str) -> str:
    return "\n".join(textwrap.wrap(textwrap.shorten(told, 160, placeholder=" …"), 40, break_on_hyphens=False))


def _measure(prefix: str, metric: str, column: str) -> Measure:
    known = METRICS.get(metric)
    label = known.label if known else metric
    label = {"": label, "improvement_": f"{label} improvement", "val/": f"validation {label}"}[prefix]
    form = f"{{:.{known.digits + 1}f}}" if known else "{:.4g}"  # configurations differ by less than files do
    return Measure(prefix + metric, column, label, form, more_is_better=known is not None)


def _choose(runs: pd.DataFrame, metric: str | None) -> Measure | None:
    found = measures(runs)
    if not found:
        return None
    if metric is not None and metric not in found:
        raise UserError(f"metric={metric}: no run has it; choose from {', '.join(found)}")
    tested = [name for name, measure in found.items() if measure.column.startswith("test.enhanced_")]
    monitored = [name for name in runs.get("monitor", pd.Series(dtype=str)).mode() if name in found]
    preferred = [metric] if metric else [*(["pesq_wb"] if "pesq_wb" in tested else []), *tested, *monitored, *found]
    return found[preferred[0]]


def _shown(sweep: Sweep) -> list[Measure]:
    """The chosen measure and the usual ones of the test."""
    if not sweep.measure:
        return []
    found = measures(sweep.runs)
    return [sweep.measure, *(found[name] for name in _HEADLINE if name in found and name != sweep.measure.name)]


def _results(sweep: Sweep, bold: str, deviating: int) -> pd.DataFrame:
    """The text of n, means and costs by configuration; the best means in `bold`, the first ones with deviations."""
    texts = {"n": sweep.means["n"].map(str)}
    for position, measure in enumerate(_shown(sweep)):
        means = sweep.means[measure.column]
        deviations = sweep.deviations[measure.column] if position < deviating else means * np.nan
        best = measure.goodness(means).max() if means.nunique() > 1 else None
        texts[measure.label] = [
            (bold if measure.goodness(mean) == best else "{}").format(measure.show(mean))
            + ("" if np.isnan(deviation) else f" ± {measure.show(deviation)}")
            for mean, deviation in zip(means, deviations)
        ]
    for heading, (column, form) in _COSTS.items():
        if column in sweep.means and sweep.means[column].notna().any():
            texts[heading] = sweep.means[column].map(form.format, na_action="ignore").fillna("–")
    return pd.DataFrame(texts, index=sweep.means.index)


def _value(value) -> str:
    if isinstance(value, str):
        return value
    if pd.isna(value):
        return "–"
    if isinstance(value, (bool, np.bool_)):
        return str(value).lower()
    return f"{value:.0f}" if value == round(value) and abs(value) < 1e6 else f"{value:.4g}"


def _clipped(text: str, length: int) -> str:
    """Paths differ at their ends."""
    return text if len(text) <= length else f"…{text[1 - length :]}"


def _escape(cell: str) -> str:
    return cell.replace("|", "\\|")


_FIGURES = {
    "quality_macs.png": partial(cost_figure, column="cost.mmacs_exact", label="MMACs/s, exact"),
    "quality_latency.png": partial(cost_figure, column="cost.latency_ms", label="latency in ms"),
    "heatmap.png": map_figure,
    "learning_curves.png": curve_figure,
}
