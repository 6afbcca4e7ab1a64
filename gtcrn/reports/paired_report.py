"""The paired comparison of a sweep in words: tables, sentences to quote, and notes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from gtcrn.errors import counted
from gtcrn.reports.paired import NOISY, RESAMPLES
from gtcrn.reports.sweeps import Measure, Sweep, compared_measures, comparisons, system_name

_FEW_FILES, _FEW_SEEDS = 10, 5  # fewer make intervals too narrow


def content(sweep: Sweep) -> dict[str, Any] | None:
    """Return all of the comparison for the listening page, or None if there is none."""
    if sweep.paired.empty:
        return None
    return {
        "title": title(sweep),
        "sentences": sentences(sweep),
        "tables": tables(sweep),
        "notes": notes(sweep),
    }


def title(sweep: Sweep) -> str:
    return f"Compared file by file with {system_name(sweep, sweep.reference)}"


def tables(sweep: Sweep) -> list[tuple[list[str], list[list[str]]]]:
    """Return the header and rows of a table for each measure, the noisy input first and then the best configuration.

    The measure's label stands above the names, since there is a table for each.
    """
    return [_table(sweep, measure) for measure in compared_measures(sweep)]


def sentences(sweep: Sweep) -> list[str]:
    """Return a sentence to quote on each configuration by the first measure, where it has an interval."""
    lines = []
    for measure in compared_measures(sweep)[:1]:
        rows = comparisons(sweep, measure)
        for _, row in rows.drop(sweep.reference).dropna(subset="low").iterrows():
            lines.append(_sentence(sweep, measure, row, rows.loc[sweep.reference]))
    return lines


def notes(sweep: Sweep) -> list[str]:
    """Return notes on what the intervals and P are, what they leave out, and how many scores are missing."""
    if sweep.paired.empty:
        return []
    trained = sweep.paired[sweep.paired["system"] != NOISY]
    most, least = trained["n"].max(), trained["n"].min()
    drawn = "files and seeds" if most > 1 else "files"
    lines = [
        f"P better: the share of {RESAMPLES:,} resamples of the {drawn} in which the mean is better than that of the "
        "reference on the same files; brackets: the interval that holds 95 % of the resamples"
    ]
    if least == 1:
        which = "one seed each" if most == 1 else "where n is 1"
        lines.append(f"{which}: differences between trainings are not included")
    if 1 < most < _FEW_SEEDS:
        lines.append(f"n below {_FEW_SEEDS}: intervals are too narrow where trainings differ much")
    if trained["system"].nunique() > 2:
        lines.append("every comparison stands alone: no interval is corrected for their number")
    for measure in compared_measures(sweep):
        if lacking := comparisons(sweep, measure)["lacking"].max():
            lines.append(
                f"{measure.label}: up to {counted(lacking, 'file')} without a score in one of two are left out"
            )
    fewest = sweep.paired["files"].min()
    if fewest < _FEW_FILES:
        lines.append(f"{counted(fewest, 'file')}: too few for intervals to mean much")
    return lines


def _table(sweep: Sweep, measure: Measure) -> tuple[list[str], list[list[str]]]:
    lines = []
    for system, row in comparisons(sweep, measure).iterrows():
        name, seeds = system_name(sweep, system), "" if system == NOISY else str(row["n"])
        mean = _with_interval(measure.form, row["mean"], row["mean_low"], row["mean_high"])
        compared = [_with_interval(_signed(measure), row["difference"], row["low"], row["high"]), _share(row["better"])]
        if system == sweep.reference:
            name, compared = f"{name} (reference)", ["", ""]
        lines.append([name, seeds, str(row["files"]), mean, *compared])
    return [measure.label, "n", "files", "mean [95 %]", "difference [95 %]", "P better"], lines


def _sentence(sweep: Sweep, measure: Measure, own: pd.Series, base: pd.Series) -> str:
    difference, low, high, share = own[["difference", "low", "high", "better"]]
    form, begin, by = _signed(measure), "It is open whether ", "difference"
    if low > 0 or high < 0:
        form, begin, by = measure.form, "", "by"
        difference, (low, high) = abs(difference), sorted((abs(low), abs(high)))
        if share < 0.5:
            own, base, share = base, own, 1 - share
    numbers = [row["n"] for row in (own, base) if row.name != NOISY]
    seeds = f"{' and '.join(map(str, numbers))} {'seed' if numbers == [1] else 'seeds'}"
    seeds = "one seed each" if numbers == [1, 1] else seeds
    return (
        f"{begin}{system_name(sweep, own.name)} is better than {system_name(sweep, base.name)} in {measure.label}: "
        f"{by} {form.format(difference)}, 95 % interval {form.format(low)} to {form.format(high)} "
        f"(P {_share(share, '= ')}; {counted(own['files'], 'file')}; {seeds})."
    )


def _with_interval(form: str, value: float, low: float, high: float) -> str:
    if np.isnan(value):
        return "–"
    return form.format(value) + ("" if np.isnan(low) else f" [{form.format(low)}, {form.format(high)}]")


def _signed(measure: Measure) -> str:
    return measure.form.replace(":", ":+")


def _share(value: float, equals: str = "") -> str:
    """Write a share of the resamples in three digits; more of them would be chance."""
    if np.isnan(value):
        return "–"
    return "< 0.001" if value < 0.0005 else "> 0.999" if value > 0.9995 else f"{equals}{value:.3f}"
