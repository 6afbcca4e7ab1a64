"""The report of a sweep: a table, the figures, and what did not finish.

write(compare(read_runs("outputs/2025-01-31/12-00-00_sweep")), Path("report"))
"""

from __future__ import annotations

import textwrap
from functools import partial
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import rich.box
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from gtcrn.analysis.figures import STYLE
from gtcrn.analysis.runs import RESULTS, config_columns, configured
from gtcrn.analysis.sweep_figures import cost_figure, curve_figure, map_figure
from gtcrn.analysis.sweeps import Measure, Sweep, measures, name, short_names, shown_value
from gtcrn.analysis.tables import markdown_table

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
_FIGURES = {
    "quality_macs.png": partial(cost_figure, column="cost.mmacs_exact", label="MMACs/s, exact"),
    "quality_latency.png": partial(cost_figure, column="cost.latency_ms", label="latency in ms"),
    "heatmap.png": map_figure,
    "learning_curves.png": curve_figure,
}


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
        knobs = sweep.means[sweep.knobs].map(shown_value).to_numpy()
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


def _escape(cell: str) -> str:
    return cell.replace("|", "\\|")
