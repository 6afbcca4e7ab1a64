"""The report of `task=prepare prepare=filter` on what it kept and left out, as text and as a figure."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter

from gtcrn.data.preparation.output import OutputFolder
from gtcrn.data.preparation.selection import Limit
from gtcrn.plots.figures import OPEN_STYLE
from gtcrn.plots.palette import BLACK, bars

SHOWN = {  # the factor and the label with which a measure is shown
    "snr": (1, "estimated SNR [dB]"),
    "clipping": (100, "samples that clip [%]"),
    "silence": (100, "time without speech [%]"),
    "bandwidth": (1e-3, "bandwidth [kHz]"),
}
WORST = 5  # examples of each reason
_BINS = 60


def write(table: pd.DataFrame, limits: Mapping[str, Limit], output: OutputFolder) -> None:
    """Write `report.md` and `report.png` about the files in `quality.csv`."""
    table = table.assign(left_out=table["left_out"].fillna(""))
    with output.writing("report.md") as partial:
        partial.write_text(markdown(table, limits))
    with output.writing("report.png") as partial:
        histograms(table, limits).savefig(partial)


def markdown(table: pd.DataFrame, limits: Mapping[str, Limit]) -> str:
    """Return the report in Markdown: how much is kept, how much is left out for each reason, and the worst files."""
    kept, hours = table["left_out"] == "", table["seconds"] / 3600
    bad = table["snr"].isna()
    reasons = {f"{name} {limit}": limit.fails(table[name]) for name, limit in limits.items()}
    lines = [
        f"# {kept.sum():,} of {len(table):,} files kept, {hours[kept].sum():.2f} of {hours.sum():.2f} h",
        "",
        "| left out for | files | hours |",
        "|---|--:|--:|",
        *(f"| {reason} | {rows.sum():,} | {hours[rows].sum():.2f} |" for reason, rows in reasons.items()),
        f"| being of no use (failures.csv) | {bad.sum():,} | |",
        "",
        "A file can have several reasons. `quality.csv` has the measures of all of them.",
        "",
        "![Histograms of the measures](report.png)",
    ]
    for (reason, rows), (name, limit) in zip(reasons.items(), limits.items()):
        if rows.any():
            factor, label = SHOWN[name]
            worst = table[rows].sort_values(name, ascending=limit.is_least, kind="stable").head(WORST)
            lines += ["", f"## {reason}: the worst", "", f"| file | {label} |", "|---|--:|"]
            lines += [f"| {path} | {factor * value:.4g} |" for path, value in zip(worst["path"], worst[name])]
    return "\n".join(lines) + "\n"


def histograms(table: pd.DataFrame, limits: Mapping[str, Limit]) -> Figure:
    """Draw a histogram of each measure over the files, with its limit."""
    with matplotlib.rc_context(OPEN_STYLE):
        figure = Figure(figsize=(9, 5.4), dpi=150, layout="constrained")
        for panel, (name, (factor, label)) in zip(figure.subplots(2, 2).flat, SHOWN.items()):
            values = table[name].dropna().to_numpy()
            limit = limits.get(name)
            edges = factor * np.histogram_bin_edges([*values, *([limit.value] if limit else [])], _BINS)
            panel.hist(factor * values, edges, label="kept", **bars(0))
            panel.set_title("no limit", loc="left", fontsize=9)
            if limit:
                out = limit.fails(values)
                panel.hist(factor * values[out], edges, label="left out", **bars(1))
                panel.axvline(factor * limit.value, color=BLACK, linewidth=1, linestyle="--", label="limit")
                panel.set_title(f"{out.sum():,} of {len(out):,} left out: {name} {limit}", loc="left", fontsize=9)
            panel.set_yscale("symlog", linthresh=1)  # so that a few bad files are visible among many good ones
            panel.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
            panel.set_xlabel(label)
            panel.set_ylabel("files")
        handles = {label: handle for panel in figure.axes for handle, label in zip(*panel.get_legend_handles_labels())}
        figure.legend(handles.values(), handles, loc="outside upper right", ncols=len(handles), frameon=False)
    return figure
