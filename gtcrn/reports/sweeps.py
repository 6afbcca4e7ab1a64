"""Comparison of runs by their configurations.

sweep, *others = compare(read_runs("outputs/2025-01-31/12-00-00_sweep"))
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from gtcrn.errors import UserError, nearest
from gtcrn.metrics import METRICS, more_is_better
from gtcrn.reports import paired
from gtcrn.reports.comparable import comparable
from gtcrn.reports.paired import NOISY
from gtcrn.reports.runs import RESULTS, configured, differing

log = logging.getLogger(__name__)

_NAMES = ("run", "ckpt")  # columns whose values are names themselves
HEADLINE = ("pesq_wb", "estoi", "si_sdr")  # metrics shown beside the chosen measure


class Measure(NamedTuple):
    """A measure of quality: its name, its column in `read_runs`, its label and format, and whether more is better."""

    name: str
    column: str
    label: str
    form: str
    more_is_better: bool

    def show(self, value: float) -> str:
        return "–" if np.isnan(value) else self.form.format(value)

    def goodness(self, values: pd.Series) -> pd.Series:
        """Return the values, negated where less is better, so that more is always better."""
        return values if self.more_is_better else -values

    def noisy(self, runs: pd.DataFrame) -> float:
        """Return the value of the noisy input, in the mean over the finished runs; nan if it is not known."""
        if self.column.startswith("test.improvement_"):
            return 0.0
        column = self.column.replace("test.enhanced_", "test.noisy_").replace("/", "/noisy_")  # the latter for val/…
        if column == self.column or column not in runs:
            return np.nan
        return runs.loc[runs["state"] == "finished", column].mean()


class Sweep(NamedTuple):
    """Runs that differ in `knobs`, and in their seeds.

    runs:           those of `read_runs`
    configurations: the number of each run's configuration
    names:          a line for each configuration: `width_mult=0.5 r=8`
    measure:        None where no run has a result
    means:          one row per configuration with finished runs, the best by `measure` first: the knobs, `n` (its
                    finished runs) and the means of all results over these
    deviations:     the same rows, standard deviations (ddof = 1) of the results; nan where n = 1
    remarks:        lines on the files that they were tested on
    reference:      the number of the configuration with which `paired` compares the others, or NOISY
    paired:         as `gtcrn.reports.paired.compare` returns it; empty where no files can be compared
    """

    runs: pd.DataFrame
    configurations: pd.Series
    names: pd.Series
    knobs: list[str]
    measure: Measure | None
    means: pd.DataFrame
    deviations: pd.DataFrame
    remarks: list[str]
    reference: int = NOISY
    paired: pd.DataFrame = pd.DataFrame()


def measures(runs: pd.DataFrame) -> dict[str, Measure]:
    """Return the measures that any run has a value of, by name, but for those of `unregistered`.

    Names are such as pesq_wb and improvement_pesq_wb of the test, val/pesq_wb and val/loss of the last validation.
    """
    found, unknown = {}, unregistered(runs)
    for column in runs.columns[runs.notna().any()]:
        for prefix, kept in (
            ("test.enhanced_", ""),
            ("test.improvement_", "improvement_"),
            ("validation.val/", "val/"),
        ):
            metric = column.removeprefix(prefix)
            if column.startswith(prefix) and not metric.startswith("noisy_") and metric not in unknown:
                found[kept + metric] = _measure(kept, metric, column)
    return found


def unregistered(runs: pd.DataFrame) -> set[str]:
    """Return the scored metrics that are not registered here, so that their unit and direction are not known."""
    scored = {
        column.partition("noisy_")[2] for column in runs if column.startswith(("test.noisy_", "validation.val/noisy_"))
    }
    tested = {column.removeprefix("test.enhanced_") for column in runs if column.startswith("test.enhanced_")}
    return (scored | tested) - METRICS.keys()


def compare(runs: pd.DataFrame, metric: str | None = None, reference: str | None = None) -> list[Sweep]:
    """Compare the runs of `read_runs`: one sweep for each group that may be compared, the largest first.

    metric: a name of `measures`; by default pesq_wb of the test, or its first metric, or the monitored one of the
    validation. reference: what the others are compared with file by file, one of `references`; by default, and in a
    group that does not have it, the best configuration, or the noisy input if there is only one.

    Raises UserError for a metric that no run has, unless there are no results at all, and for an unknown reference.
    """
    found = measures(runs)
    if unknown := sorted(unregistered(runs)):
        log.warning(
            "left out %s: unknown here, so import the module that registers it, imports=[MODULE]", ", ".join(unknown)
        )
    if metric is not None and found and metric not in found:
        raise UserError(f"metric={metric}: no run has it; choose from {', '.join(found)}")
    groups = comparable(runs)
    arranged = [arrange(group.runs, metric, group.remarks) for group in groups]
    called = [references(sweep) for sweep in arranged]
    if reference is not None and not any(reference in names for names in called):
        names = dict.fromkeys(["noisy", *(sweep.names[kind] for sweep in arranged for kind in sweep.means.index)])
        raise UserError(f"reference={reference}: no finished configuration of this name; {nearest(reference, names)}")
    return [
        _compared(sweep, group.scores, names.get(reference)) for sweep, group, names in zip(arranged, groups, called)
    ]


def arrange(runs: pd.DataFrame, metric: str | None = None, remarks: Sequence[str] = ()) -> Sweep:
    """Group runs that may be compared by everything that differs between them but the seed."""
    knobs = [column for column in differing(runs) if column.split(".")[-1] != "seed"]
    finished = runs[runs["state"] == "finished"]
    if not configured(finished).all() or len(finished) == 1:  # then nothing else says in what they differ
        knobs = ["run", *knobs]
    kinds = runs.groupby(knobs, dropna=False, sort=False).ngroup() if knobs else pd.Series(0, runs.index)
    values = runs[knobs][~kinds.duplicated()].set_axis(kinds.unique())
    names = pd.Series({kind: name(row, of) for kind, row, of in _named_by(values, knobs)}, dtype=object)

    results = [column for column in runs if column.startswith(RESULTS)]
    grouped = finished[results].groupby(kinds[finished.index])
    means = pd.concat([values, grouped.size().rename("n"), grouped.mean()], axis=1, join="inner")
    measure = _choose(runs, metric)
    if measure:
        ranked = measure.goodness(means[measure.column]).sort_values(ascending=False, kind="stable")
        means = means.loc[ranked.index]
    return Sweep(runs, kinds, names, knobs, measure, means, grouped.std(ddof=1).loc[means.index], list(remarks))


def references(sweep: Sweep) -> dict[str, int]:
    """Return the configurations by the names they may be called by: the value of the only knob, that of the table, or
    the folder of a run; and the noisy input."""
    finished = sweep.runs[sweep.runs["state"] == "finished"]
    called = dict(zip(finished["run"], sweep.configurations[finished.index]))
    called |= {sweep.names[kind]: kind for kind in sweep.means.index}
    if len(sweep.knobs) == 1:
        called |= {shown_value(value): kind for kind, value in sweep.means[sweep.knobs[0]].items()}
    return called | {"noisy": NOISY}


def _compared(sweep: Sweep, scores: Mapping[str, pd.DataFrame], reference: int | None) -> Sweep:
    """Return the sweep with the paired comparison. scores: by run, with the same files in all of them."""
    if reference is None:
        reference = sweep.means.index[0] if len(sweep.means) > 1 else NOISY
    systems = {
        kind: [scores[run] for run in sweep.runs["run"][sweep.configurations == kind] if run in scores]
        for kind in sweep.means.index
    }
    return sweep._replace(reference=reference, paired=paired.compare(systems, reference))


def system_name(sweep: Sweep, system: int) -> str:
    """Return the name of a configuration, or of the noisy input."""
    return "noisy" if system == NOISY else sweep.names[system]


def _named_by(values: pd.DataFrame, knobs: list[str]) -> Iterator[tuple[int, pd.Series, list[str]]]:
    """Yield each configuration's number and knobs, and those of them that name it.

    Beside runs of another task, configurations are named by what differs between those of their own, since no other
    knob is theirs; by their checkpoint, if they have one; and by the task, if nothing else is left.
    """
    tasks = values.groupby("task", dropna=False, sort=False) if "task" in knobs else [("", values)]
    for _, own in tasks:
        differ = [
            knob
            for knob in knobs
            if own[knob].nunique(dropna=False) > 1 or (knob in _NAMES and own[knob].notna().all())
        ]
        for kind, row in own.iterrows():
            yield kind, row, (differ or ["task"]) if "task" in knobs else knobs


def compared_measures(sweep: Sweep) -> list[Measure]:
    """Return the measures whose paired comparison tables and figures show: the chosen one and the usual ones."""
    if not sweep.measure or sweep.paired.empty:
        return []
    compared = sweep.paired["metric"].unique()
    chosen = dict.fromkeys([sweep.measure.name.removeprefix("improvement_"), *HEADLINE])
    found = measures(sweep.runs)
    return [found[name] for name in chosen if name in compared] or [found[compared[0]]]


def comparisons(sweep: Sweep, measure: Measure) -> pd.DataFrame:
    """Return the rows of `paired` of a measure by system, the noisy input first and then the best configuration."""
    rows = sweep.paired[sweep.paired["metric"] == measure.name].set_index("system")
    return rows.loc[[system for system in (NOISY, *sweep.means.index) if system in rows.index]]


def shown_measures(sweep: Sweep) -> list[Measure]:
    """Return the measures that tables and figures show: the chosen one and the usual ones of the test."""
    if not sweep.measure:
        return []
    found = measures(sweep.runs)
    return [sweep.measure, *(found[name] for name in HEADLINE if name in found and name != sweep.measure.name)]


def name(row: pd.Series, knobs: Sequence[str]) -> str:
    """Return the name of a run or configuration in one line: `width_mult=0.5 r=8`, or `gtcrn-dns3` for a ckpt."""
    parts = [
        f"{'' if knob in _NAMES else f'{short}='}{clipped(shown_value(row[knob]), 40)}"
        for knob, short in short_names(knobs).items()
    ]
    return " ".join(parts) or "all alike"


def short_names(knobs: Sequence[str]) -> dict[str, str]:
    """Return a short name for each knob, such as `width_mult` for model.width_mult, if no other ends the same."""
    short = {}
    for knob in knobs:
        parts = knob.split(".")
        endings = (".".join(parts[-length:]) for length in range(1, len(parts) + 1))
        short[knob] = next(
            (ending for ending in endings if sum(f".{other}".endswith(f".{ending}") for other in knobs) == 1), knob
        )
    return short


def pareto(cost: np.ndarray, goodness: np.ndarray) -> np.ndarray:
    """Return which points are on the Pareto front, (N,) bool: no other costs no more and is no worse, one of them
    strictly."""
    return np.array([
        not ((cost <= c) & (goodness >= g) & ((cost < c) | (goodness > g))).any() for c, g in zip(cost, goodness)
    ], dtype=bool)  # fmt: skip


def _measure(prefix: str, metric: str, column: str) -> Measure:
    known = METRICS.get(metric)
    label = known.label if known else metric
    label = {"": label, "improvement_": f"{label} improvement", "val/": f"validation {label}"}[prefix]
    form = f"{{:.{known.digits + 1}f}}" if known else "{:.4g}"  # configurations differ by less than files do
    return Measure(prefix + metric, column, label, form, more_is_better(prefix + metric))


def _choose(runs: pd.DataFrame, metric: str | None) -> Measure | None:
    found = measures(runs)
    if not found:
        return None
    tested = [name for name, measure in found.items() if measure.column.startswith("test.enhanced_")]
    monitored = [name for name in runs.get("monitor", pd.Series(dtype=str)).mode() if name in found]
    preferred = [metric, "pesq_wb", *tested, *monitored, *found]
    return next(found[name] for name in preferred if name in found)


def shown_value(value) -> str:
    if isinstance(value, str):
        return value
    if pd.isna(value):
        return "–"
    if isinstance(value, (bool, np.bool_)):
        return str(value).lower()
    return f"{value:.0f}" if value == round(value) and abs(value) < 1e6 else f"{value:.4g}"


def clipped(text: str, length: int) -> str:
    """Cut the beginning of a long text, since paths differ at their ends."""
    return text if len(text) <= length else f"…{text[1 - length :]}"
