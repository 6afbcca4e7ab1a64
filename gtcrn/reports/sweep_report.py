"""The report of a sweep: a table, figures, and a list of the runs that did not finish.

write(compare(read_runs("outputs/2025-01-31/12-00-00_sweep")), Path("report"))
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import zip_longest
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import rich.box
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from gtcrn.files import write_text
from gtcrn.plots.figures import STYLE, save
from gtcrn.plots.tables import markdown_table, plain, write_csv
from gtcrn.reports import paired_report
from gtcrn.reports.paired import NOISY
from gtcrn.reports.runs import RESULTS, config_columns, configured
from gtcrn.reports.sweep_figures import cost_figure, curve_figure, forest_figure, knob_figure, map_figure
from gtcrn.reports.sweeps import HEADLINE, Sweep, name, short_names, shown_measures, shown_value, system_name

_COSTS = {
    "parameters": ("cost.parameters_trainable", "{:,.0f}"),
    "MMACs/s": ("cost.mmacs_exact", "{:.2f}"),
    "latency ms": ("cost.latency_ms", "{:.1f}"),
}
_ROWS, _ERRORS = 20, 5  # most of each shown in a terminal
_APART = "The runs were not all tested on the same files or trained on as much. What may not be compared stands apart."

_SHARED = {  # groups that a note names if all runs chose the same; evaluated checkpoints bring their own model
    "train": ("task", "model", "streaming", "loss", "training", "data"),
    "evaluate": ("task", "data"),
}
_FIGURES = {
    "paired.png": forest_figure,
    "quality_macs.png": partial(cost_figure, column="cost.mmacs_exact", label="MMACs/s, exact"),
    "quality_latency.png": partial(cost_figure, column="cost.latency_ms", label="latency [ms]"),
    "quality_knob.png": knob_figure,
    "heatmap.png": map_figure,
    "learning_curves.png": curve_figure,
}


def write(sweeps: Sequence[Sweep], folder: Path) -> list[Path]:
    """Write sweep.csv, sweep.md, paired.csv and all figures that can be drawn, and return their paths.

    sweep.csv has every run, failed ones with their error, and every column of `read_runs`, the knobs first. paired.csv
    has the paired comparison by every metric, and is missing if no files can be compared. The figures of a second
    sweep, whose runs may not be compared with the first one's, are called quality_macs_2.png ….
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_csv(_all_runs(sweeps), folder / "sweep.csv")
    (folder / "paired.csv").unlink(missing_ok=True)
    if len(compared := _all_comparisons(sweeps)):
        write_csv(compared, folder / "paired.csv", float_format="%.6g")
    for file in _FIGURES:  # of an earlier report
        for earlier in (folder / file, *folder.glob(f"{Path(file).stem}_[0-9]*.png")):
            earlier.unlink(missing_ok=True)
    drawn = [_draw(sweep, folder, f"_{number}" if number > 1 else "") for number, sweep in enumerate(sweeps, 1)]
    write_text(folder / "sweep.md", markdown(sweeps, folder.resolve().name, drawn))
    pictures = [file for captions, _ in drawn for file in captions]
    compared_file = ["paired.csv"] if len(compared) else []
    return [folder / file for file in ("sweep.csv", "sweep.md", *compared_file, *pictures)]


def _all_comparisons(sweeps: Sequence[Sweep]) -> pd.DataFrame:
    parts = []
    for sweep in (sweep for sweep in sweeps if len(sweep.paired)):
        names = sweep.paired["system"].map(partial(system_name, sweep))
        part = sweep.paired.assign(configuration=names, reference=system_name(sweep, sweep.reference))
        first = ["reference", "configuration", "metric"]
        parts.append(part[[*first, *part.columns.difference([*first, "system"], sort=False)]])
    return pd.concat(parts) if parts else pd.DataFrame()


def _all_runs(sweeps: Sequence[Sweep]) -> pd.DataFrame:
    runs = pd.concat([sweep.runs for sweep in sweeps])
    first = [knob for sweep in sweeps for knob in sweep.knobs] + ["seed", "run", "state", "error"]
    first += [sweep.measure.column for sweep in sweeps if sweep.measure]
    results = [column for column in runs if column.startswith(RESULTS) and column not in first]
    facts = runs.columns.difference([*first, *results, *config_columns(runs)], sort=False)
    rest = config_columns(runs).difference(first, sort=False)
    return runs[[*dict.fromkeys(first), *results, *facts, *rest]]


def _draw(sweep: Sweep, folder: Path, suffix: str) -> tuple[dict[str, str], dict[str, str]]:
    """Draw the figures of a sweep; return their captions, and the reasons why others are missing, by file."""
    captions, missing = {}, {}
    for picture, draw in _FIGURES.items():
        file = Path(picture).stem + suffix + Path(picture).suffix
        with matplotlib.rc_context(STYLE):
            drawn = draw(sweep)
        if isinstance(drawn, str):
            missing[file] = drawn
            continue
        figure, captions[file] = drawn
        lines = textwrap.fill(captions[file], round(10 * figure.get_figwidth()))  # as wide as the space beside a legend
        figure.suptitle(lines, x=0.01, ha="left", fontsize=8)
        save(figure, folder / file)
    return captions, missing


def markdown(
    sweeps: Sequence[Sweep], title: str, drawn: Sequence[tuple[Mapping[str, str], Mapping[str, str]]] = ()
) -> str:
    """Return the report in Markdown: for each sweep the table, notes, and figures with their captions.

    It ends with the figures that are missing and the runs without results, and why. drawn: for each sweep the captions
    of its figures, and the reasons why others are missing, by file.
    """
    parts = [f"# {plain(title)}", counts(sweeps)]
    if len(sweeps) > 1:
        parts.append(_APART)
    for sweep, (captions, _) in zip_longest(sweeps, drawn, fillvalue=({}, {})):
        if len(sweeps) > 1:
            parts.append(f"## {plain(_heading(sweep))}")
        if len(sweep.means):
            parts += [markdown_table(*_texts(sweep)), "\n".join(f"- {plain(note)}" for note in notes(sweep))]
        if len(sweep.paired):
            parts.append(f"##{'#' * (len(sweeps) > 1)} {plain(paired_report.title(sweep))}")
            parts += [plain(sentence) for sentence in paired_report.sentences(sweep)]
            parts += [markdown_table(*table) for table in paired_report.tables(sweep)]
            parts.append("\n".join(f"- {plain(note)}" for note in paired_report.notes(sweep)))
        parts += [f"![{plain(caption)}]({file})" for file, caption in captions.items()]
    if lines := [f"{file}: {reason}" for _, missing in drawn for file, reason in missing.items()]:
        parts += ["## Not drawn", "\n".join(f"- {plain(line)}" for line in lines)]
    if lines := not_finished(sweeps[0]):
        parts += ["## Not finished", "\n".join(f"- {plain(line)}" for line in lines)]
    return "\n\n".join(parts) + "\n"


def _heading(sweep: Sweep) -> str:
    finished = (sweep.runs["state"] == "finished").sum()
    return f"{finished} {'run' if finished == 1 else 'runs'}, {'; '.join(sweep.remarks)}"


def _texts(sweep: Sweep) -> tuple[list[str], list[list[str]]]:
    """Return the header and rows of the table in Markdown, with the noisy input first."""
    results = _results(sweep, bold="**{}**", deviating=1 + len(HEADLINE))
    knobs = list(short_names(sweep.knobs).values())
    if NOISY in results.index:
        knobs = knobs or ["configuration"]
    named = {kind: [shown_value(row[knob]) for knob in sweep.knobs] for kind, row in sweep.means.iterrows()}
    named = {kind: cells or [sweep.names[kind]][: len(knobs)] for kind, cells in named.items()}
    named[NOISY] = ["noisy", *[""] * (len(knobs) - 1)]
    return [*knobs, *results], [[*named[kind], *row] for kind, row in zip(results.index, results.to_numpy())]


def terminal(sweeps: Sequence[Sweep]) -> list[Table | Text]:
    """Return the report for `rich.print`, also in 80 columns: the best configurations of each sweep, the deviations of
    their measure, notes, and the runs that did not finish."""
    parts: list[Table | Text] = [Text(counts(sweeps))]
    if len(sweeps) > 1:
        parts.append(Text(_APART))
    for sweep in sweeps:
        results = _results(sweep, bold="[bold]{}[/bold]", deviating=1)
        results = results.drop(columns=["parameters", "latency ms"], errors="ignore")
        title = escape(_heading(sweep)) if len(sweeps) > 1 else None
        shown = Table("configuration", title=title, title_justify="left", box=rich.box.SIMPLE_HEAD)
        shown.columns[0].overflow = "fold"
        for heading in results:
            shown.add_column(heading, justify="right")
        rows = _ROWS + (NOISY in results.index)
        for kind, row in results.head(rows).iterrows():
            shown.add_row("noisy" if kind == NOISY else escape(sweep.names[kind]), *row)
        below = notes(sweep)
        if (left_out := len(results) - rows) > 0:
            below.append(f"… and {left_out} more configurations in sweep.md")
        parts += [*([shown] if len(results) else []), Text("\n".join(below))]
        if len(sweep.paired):
            parts += [_compared(sweep), Text("\n".join(paired_report.notes(sweep)))]
    failures = not_finished(sweeps[0])
    if (left_out := len(failures) - _ERRORS) > 0:
        failures[_ERRORS:] = [f"… and {left_out} more runs not finished in sweep.md"]
    return [*parts, Text("\n".join(failures) + "\n")]


def _compared(sweep: Sweep) -> Table:
    """Return the paired comparison by the first measure for `rich.print`."""
    header, rows = paired_report.tables(sweep)[0]
    heading = f"{paired_report.title(sweep)}, by {header[0]}"
    shown = Table("configuration", title=escape(heading), title_justify="left", box=rich.box.SIMPLE_HEAD)
    shown.columns[0].overflow = "fold"
    for column in header[4:]:
        shown.add_column(column.replace("[", r"\["), justify="right")
    for configuration, _, _, _, difference, share in rows[: _ROWS + 1]:
        shown.add_row(escape(configuration), escape(difference), share)
    return shown


def counts(sweeps: Sequence[Sweep]) -> str:
    """Count runs by state in words, such as `12 runs: 10 finished, 1 failed, 1 unfinished`."""
    runs = pd.concat([sweep.runs for sweep in sweeps])
    by_state = runs["state"].value_counts()
    states = ", ".join(
        f"{by_state[state]} {state}" for state in ("finished", "failed", "unfinished") if state in by_state
    )
    return f"{len(runs)} {'run' if len(runs) == 1 else 'runs'}: {states}"


def notes(sweep: Sweep) -> list[str]:
    """Return notes on what the numbers mean, what all runs share, and how many numbers are missing."""
    lines = list(sweep.remarks)
    if (sweep.means["n"] > 1).any():
        lines.append("mean ± standard deviation (n − 1) over the n runs that differ in nothing but the seed")
    choices = sweep.runs.drop(columns=sweep.knobs)
    alike = {group: values.dropna().iloc[0] for group, values in choices.items() if values.nunique() == 1}
    if shared := [f"{group}={alike[group]}" for group in _SHARED.get(alike.get("task"), ()) if group in alike]:
        lines.append(f"all runs: {' '.join(shared)}")
    finished = sweep.runs[sweep.runs["state"] == "finished"]
    for measure in shown_measures(sweep):
        if missing := finished[measure.column].isna().sum():
            lines.append(
                f"{measure.label}: {missing} of {len(finished)} finished runs have none; it is left out of the mean"
            )
    if sweep.measure:
        goodness = sweep.measure.goodness(sweep.means[sweep.measure.column])
        if worse := (goodness < sweep.measure.goodness(sweep.measure.noisy(sweep.runs))).sum():
            lines.append(f"{worse} of {len(goodness)} are worse than the noisy input by {sweep.measure.label}")
    return lines


def not_finished(sweep: Sweep) -> list[str]:
    """Return a line for every run that failed or is unfinished, with the reason."""
    knobs = [knob for knob in sweep.knobs if knob != "run"]  # which begins the line
    shown = [*knobs, *(["seed"] if sweep.runs["seed"].nunique() > 1 else [])]
    rows = sweep.runs[sweep.runs["state"] != "finished"]
    lines = []
    for known, (_, row) in zip(configured(rows), rows.iterrows()):
        which = f" ({name(row, shown)})" if known and shown else ""
        lines.append(f"{row['run']}{which}: {row['state']}{', ' if row['error'] else ''}{row['error']}")
    return lines


def _results(sweep: Sweep, bold: str, deviating: int) -> pd.DataFrame:
    """Return the texts of n, means and costs by configuration, after a row of the noisy input if its scores are known.

    The best mean, or noisy score if it is best, is formatted by `bold`; the first `deviating` measures have deviations.
    """
    noisy, texts = {"n": ""}, {"n": sweep.means["n"].map(str)}
    for position, measure in enumerate(shown_measures(sweep)):
        means, unprocessed = sweep.means[measure.column], measure.noisy(sweep.runs)
        deviations = sweep.deviations[measure.column] if position < deviating else means * np.nan
        known = pd.Series([unprocessed, *means]).dropna()
        best = measure.goodness(known).max() if known.nunique() > 1 else None
        texts[measure.label] = [
            (bold if measure.goodness(mean) == best else "{}").format(measure.show(mean))
            + ("" if np.isnan(deviation) else f" ± {measure.show(deviation)}")
            for mean, deviation in zip(means, deviations)
        ]
        form = bold if measure.goodness(unprocessed) == best else "{}"
        noisy[measure.label] = form.format(measure.show(unprocessed))
    for heading, (column, form) in _COSTS.items():
        if column in sweep.means and sweep.means[column].notna().any():
            texts[heading] = sweep.means[column].map(form.format, na_action="ignore").fillna("–")
    results = pd.DataFrame(texts, index=sweep.means.index)
    if any(np.isfinite(measure.noisy(sweep.runs)) for measure in shown_measures(sweep)):
        first = pd.DataFrame([noisy], index=[NOISY]).reindex(columns=list(texts)).fillna("")
        results = pd.concat([first, results])
    return results
