"""Tables of means with confidence intervals, from the scores per file of `gtcrn.metrics.score_pairs`."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import rich.table
from scipy.stats import t as student_t

from gtcrn.errors import counted
from gtcrn.files import whole
from gtcrn.metrics import METRICS

_MOST_LEVELS = 8  # more different SNRs than this are grouped into bins
_BIN = 5  # dB
_FORMULA = re.compile(r"'*[=+@\t\r-]")
_MARKED = re.compile(r"^'(?='*[=+@\t\r-])")
HEADLINE = ("pesq_wb", "estoi", "si_sdr")  # metrics shown by SNR and above pictures, where all would not fit


def summarise(scores: pd.DataFrame) -> pd.DataFrame:
    """Summarise scores per file in a table with a row per metric.

    Columns are the means of `noisy`, `enhanced` and their `improvement`, the half widths of their 95 % intervals
    (Student's t), and the counts of `files` that entered the means and of `failures` that did not.

    A file enters with both of its scores or not at all, so the improvement is the difference of the two means,
    positive where enhanced is better, and its interval is that of the paired differences. Without noisy scores there
    are only the columns of `enhanced`.
    """
    rows = {}
    for metric in (metric for metric in METRICS if f"enhanced_{metric}" in scores):
        parts = pd.DataFrame({
            condition: scores[f"{condition}_{metric}"]
            for condition in ("noisy", "enhanced")
            if f"{condition}_{metric}" in scores
        })  # fmt: skip
        if "noisy" in parts:
            parts["improvement"] = METRICS[metric].goodness(parts["enhanced"] - parts["noisy"])
        scored = parts.dropna()
        row = {}
        for condition in scored:
            row[condition] = scored[condition].mean()
            row[f"{condition}_ci95"] = _half_width(scored[condition])
        rows[metric] = row | {"files": len(scored), "failures": len(parts) - len(scored)}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("metric")


def summarise_by_snr(scores: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Summarise scores for each SNR of the column `snr` (dB), at exact levels, or in bins of 5 dB if there are many.

    Files whose SNR is not known are left out. Returns {} if no SNR is known.
    """
    if "snr" not in scores or scores["snr"].isna().all():
        return {}
    snr = scores["snr"].round(3)
    labels = [f"{level:g} dB" for level in sorted(snr.dropna().unique())]
    if len(labels) <= _MOST_LEVELS:
        groups = snr.map("{:g} dB".format, na_action="ignore")
    else:
        low = np.floor(snr / _BIN) * _BIN
        labels = [f"{edge:g} to {edge + _BIN:g} dB" for edge in sorted(low.dropna().unique())]
        groups = low.map(lambda edge: f"{edge:g} to {edge + _BIN:g} dB", na_action="ignore")
    return {label: summarise(scores[groups == label]) for label in labels}


def summarise_by_noise(scores: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Summarise scores for each kind of noise, the column `noise`. Returns {} unless there are two or more kinds."""
    kinds = scores.get("noise", pd.Series(dtype=str)).fillna("")
    known = sorted(set(kinds) - {""})
    return {kind: summarise(scores[kinds == kind]) for kind in known} if len(known) > 1 else {}


def markdown(scores: pd.DataFrame) -> str:
    """Return the report in Markdown: all metrics, the main ones by SNR and noise where known, and notes on them."""
    parts = [markdown_table(*_overall(scores))]
    parts += [markdown_table(*_by(heading, summaries)) for heading, summaries in _groups(scores)]
    parts.append("\n".join(f"- {note}" for note in notes(scores)))
    return "\n\n".join(parts) + "\n"


def terminal(scores: pd.DataFrame, title: str = "") -> list[rich.table.Table]:
    """Return the tables of the report for `rich.print`, with the notes below the last one."""
    tables = [rich_table(title, *_overall(scores))]
    tables += [rich_table(f"by {heading}", *_by(heading, summaries)) for heading, summaries in _groups(scores)]
    tables[-1].caption = "\n".join(notes(scores))
    tables[-1].caption_justify = "left"
    return tables


def notes(scores: pd.DataFrame) -> list[str]:
    """Return notes on what the numbers mean, and how many are missing and why."""
    summary = summarise(scores)
    lines = [f"{counted(len(scores), 'file')}; mean ± 95 % confidence interval over files"]
    for metric, count in summary["failures"].items():
        known = METRICS[metric]
        if known.packages or known.noisy or not known.more_is_better:
            lines.append(f"{known.label}: {known.described}")
        if count:
            lines.append(f"{known.label}: {count} of {len(scores)} files have no score and are left out")
    if reasons := _reasons(scores):
        counts = ", ".join(f"{reason} ({count} scores)" for reason, count in reasons.items())
        lines.append(f"reasons: {counts}")
    return lines


def score_texts(scores: pd.Series) -> dict[str, str]:
    """Return the main scores of a file, a row of `gtcrn.metrics.score_pairs`, as a line of text by condition."""
    texts = {}
    for condition in ("noisy", "enhanced"):
        known = {metric: scores.get(f"{condition}_{metric}") for metric in METRICS}
        known = {metric: value for metric, value in known.items() if value is not None}
        shown = (f"{METRICS[metric].label} {_number(metric, known[metric])}" for metric in _headline(known))
        texts[condition] = "   ".join(shown)
    return texts


def _headline(scored: Collection[str]) -> list[str]:
    """Return the main metrics of those that are scored, or the first ones if none is a main one."""
    return [metric for metric in HEADLINE if metric in scored] or list(scored)[:3]


def write_csv(table: pd.DataFrame, path: Path, **options: Any) -> None:
    """Write a table without its index.

    A text that a spreadsheet would take for a formula gets a ' before it, as spreadsheets themselves mark it.
    """
    texts = table.map(lambda value: f"'{value}" if isinstance(value, str) and _FORMULA.match(value) else value)
    with whole(path) as waiting:
        texts.to_csv(waiting, index=False, **options)


def unmarked(texts: pd.Series) -> pd.Series:
    """Return the texts of a column without the marks that `write_csv` adds."""
    return texts.str.replace(_MARKED, "", regex=True)


def _half_width(values: pd.Series) -> float:
    if len(values) < 2:
        return float("nan")
    return student_t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))


def _reasons(scores: pd.DataFrame) -> dict[str, int]:
    """Count the reasons in the column `failures`, whose texts are "column: reason; column: reason"."""
    entries = scores["failures"].fillna("").str.split("; ").explode()
    return entries[entries != ""].str.split(": ", n=1).str[1].value_counts().to_dict()


def _overall(scores: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """Return the header and rows, all text, of the table of all metrics."""
    summary = summarise(scores)
    conditions = [condition for condition in ("noisy", "enhanced", "improvement") if condition in summary]
    rows = [
        [METRICS[metric].label, *(_interval(metric, row, condition) for condition in conditions)]
        for metric, row in summary.iterrows()
    ]
    return ["metric", *conditions], rows


def _groups(scores: pd.DataFrame) -> list[tuple[str, dict[str, pd.DataFrame]]]:
    """Return by what the scores can be grouped, and their summaries in each group."""
    groups = [("input SNR", summarise_by_snr(scores)), ("noise", summarise_by_noise(scores))]
    return [(heading, summaries) for heading, summaries in groups if summaries]


def _by(heading: str, summaries: dict[str, pd.DataFrame]) -> tuple[list[str], list[list[str]]]:
    """Return the header and rows of a table with a row per group and a column "noisy → enhanced" per main metric."""
    scored = next(iter(summaries.values())).index
    metrics = _headline(scored) + [metric for metric in ("speech_att", "noise_att") if metric in scored]
    rows = []
    for label, summary in summaries.items():
        conditions = [condition for condition in ("noisy", "enhanced") if condition in summary]
        cells = [
            " → ".join(_number(metric, summary.loc[metric, condition]) for condition in conditions)
            for metric in metrics
        ]
        rows.append([label, str(summary["files"].max()), *cells])
    return [heading, "files", *(METRICS[metric].label for metric in metrics)], rows


def _number(metric: str, value: float, sign: str = "") -> str:
    return "–" if np.isnan(value) else f"{value:{sign}z.{METRICS[metric].digits}f}"  # z: no -0.00


def _interval(metric: str, row: pd.Series, condition: str) -> str:
    mean = _number(metric, row[condition], sign="+" if condition == "improvement" else "")
    half_width = row[f"{condition}_ci95"]
    return mean if np.isnan(half_width) else f"{mean} ± {_number(metric, half_width)}"


def plain(text: str) -> str:
    """Escape text of unknown origin, such as an error or a name, for Markdown: one line without tags and links."""
    return " ".join(text.split()).replace("<", "&lt;").replace("](", "]\\(")


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown whose first column is aligned to the left, and the others to the right."""
    lines = [header, *rows]
    header, *rows = (" | ".join(plain(cell).replace("|", "\\|") for cell in line) for line in lines)
    rule = " | ".join(["---"] + ["--:"] * (len(lines[0]) - 1))
    return "\n".join(f"| {line} |" for line in (header, rule, *rows))


def rich_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> rich.table.Table:
    """Return a table for `rich.print`, aligned as in `markdown_table`."""
    table = rich.table.Table(title=title or None, title_justify="left", box=rich.box.SIMPLE_HEAD)
    for column, name in enumerate(header):
        table.add_column(name, justify="right" if column else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table
