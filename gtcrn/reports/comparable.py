"""Groups of runs that may be compared: they trained on as much data and were tested on the same files.

for group in comparable(read_runs("outputs")):
    print(group.remarks, group.runs["test.enhanced_pesq_wb"])
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd

from gtcrn.metrics import METRICS
from gtcrn.reports.runs import config_columns, is_limit, scores

_TEST = "test."
_TOLERANCE = 0.02  # absolute and relative difference of a noisy score between processors


class Group(NamedTuple):
    """Runs that may be compared.

    runs: rows of `read_runs`, whose test results are means over the files that all of them have in common.
    remarks: lines on the files that they were tested on, and on what else distinguishes the group.
    scores: of each finished run whose files are known, a row for each file that all have in common.
    """

    runs: pd.DataFrame
    remarks: list[str]
    scores: Mapping[str, pd.DataFrame]


def comparable(runs: pd.DataFrame) -> list[Group]:
    """Divide the runs of `read_runs` into groups whose finished runs may be compared, the largest group first.

    Runs are in one group if they were trained with the same `limit_…` and share at least half of their test files.
    Files are the same if they have the same name and the same scores of the noisy input. Runs that did not finish are
    in the first group.
    """
    finished = runs[runs["state"] == "finished"]
    tables = {
        run: own.drop_duplicates("name").set_index("name") for run, own in scores(finished).groupby("run", sort=False)
    }
    limits = [column for column in config_columns(finished) if is_limit(column) and finished[column].nunique() > 1]
    kinds = finished.groupby(limits, dropna=False, sort=False) if limits else [((), finished)]
    groups = []
    for values, some in kinds:
        limited = [f"{limit}={value}" for limit, value in zip(limits, values) if pd.notna(value)]
        groups += [group._replace(remarks=[*group.remarks, *limited]) for group in _by_files(some, tables)]
    groups.sort(key=lambda group: len(group.runs), reverse=True)
    if not groups:
        return [Group(runs, [], {})]
    first = pd.concat([groups[0].runs, runs[runs["state"] != "finished"]])
    in_order = [index for index in runs.index if index in first.index]
    return [groups[0]._replace(runs=first.loc[in_order]), *groups[1:]]


def _by_files(runs: pd.DataFrame, tables: Mapping[str, pd.DataFrame]) -> list[Group]:
    """Divide runs into groups by the files that they were tested on. tables: scores by run, with a row per file."""
    measured = runs[[column for column in runs if column.startswith(_TEST)]].notna().any(axis=1)
    known = runs["run"].isin(list(tables))
    parts: list[tuple[pd.Index, list[str]]] = []
    for run in sorted(runs["run"][known], key=lambda run: -len(tables[run])):
        for number, (files, members) in enumerate(parts):
            common = _common(tables[members[0]].loc[files], tables[run])
            if 2 * len(common) >= max(len(files), len(tables[run])):
                parts[number] = common, [*members, run]
                break
        else:
            parts.append((tables[run].index, [run]))
    groups = [_on_common_files(runs[runs["run"].isin(members)], files, tables) for files, members in parts]
    for rest, remark in (
        (runs[~known & measured], "there is no scores.csv that tells which files these were tested on"),
        (runs[~known & ~measured], "not tested"),
    ):
        if len(rest):
            groups.append(Group(rest, [remark], {}))
    return groups


def _common(one: pd.DataFrame, other: pd.DataFrame) -> pd.Index:
    """Return the names of the files that both tables have with the same noisy scores."""
    names = one.index.intersection(other.index)
    noisy = [column for column in one if column.startswith("noisy_") and column in other]
    a, b = (table.loc[names, noisy].to_numpy(dtype=float) for table in (one, other))
    return names[np.isclose(a, b, rtol=_TOLERANCE, atol=_TOLERANCE, equal_nan=True).all(axis=1)]


def _on_common_files(runs: pd.DataFrame, files: pd.Index, tables: Mapping[str, pd.DataFrame]) -> Group:
    """Return the runs with their means over these files; each metric's over the files that all have a score of."""
    left_out = [len(tables[run]) - len(files) for run in runs["run"]]
    remarks = [f"tested on {len(files)} {'file' if len(files) == 1 else 'files'}"]
    if instead := set(runs["tested_on"].dropna()) - {"test"}:  # such as the validation set, which chose the weights
        remarks[0] += f", {' and '.join(sorted(instead))}"
    if any(left_out):
        remarks.append(
            f"compared on the {len(files)} test files that all have in common; "
            f"{sum(count > 0 for count in left_out)} of {len(runs)} runs were tested on up to {max(left_out)} more"
        )
    means = {}
    for metric, known in METRICS.items():
        conditions = {}
        for condition in ("noisy", "enhanced"):
            column = f"{condition}_{metric}"
            having = [run for run in runs["run"] if column in tables[run]]
            columns = {run: pd.to_numeric(tables[run].loc[files, column], errors="coerce") for run in having}
            conditions[condition] = pd.DataFrame(columns, index=files).dropna(axis=1, how="all")
        scored = pd.concat(conditions, axis=1).dropna()
        if lacking := (len(files) - len(scored)) * (not conditions["enhanced"].empty):
            remarks.append(f"{known.label}: {lacking} of {len(files)} files lack a score and are in no mean")
        for condition, table in conditions.items():
            means[f"{_TEST}{condition}_{metric}"] = table.loc[scored.index].mean()
        gain = conditions["enhanced"] - conditions["noisy"].reindex(columns=conditions["enhanced"].columns)
        means[f"{_TEST}improvement_{metric}"] = known.goodness(gain.loc[scored.index].mean())
    kept = {column: runs["run"].map(mean) for column, mean in means.items() if column in runs and len(mean)}
    return Group(runs.assign(**kept), remarks, {run: tables[run].loc[files] for run in runs["run"]})
