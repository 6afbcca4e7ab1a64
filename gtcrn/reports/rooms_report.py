"""The picture of what `task=prepare prepare=rooms` made."""

from __future__ import annotations

import matplotlib
import pandas as pd
from matplotlib.figure import Figure

from gtcrn.data.preparation.output import OutputFolder
from gtcrn.plots.figures import OPEN_STYLE
from gtcrn.plots.palette import SCORE, bars

RT60, DRR = "RT60, measured [s]", "direct-to-reverberant ratio [dB]"


def write(table: pd.DataFrame, output: OutputFolder) -> None:
    """Write `rooms.png` about the rooms of `rooms.csv`."""
    with output.writing("rooms.png") as partial:
        figure(table).savefig(partial)


def figure(table: pd.DataFrame) -> Figure:
    """Draw histograms of RT60 and direct-to-reverberant ratio, and that ratio against the distance."""
    with matplotlib.rc_context(OPEN_STYLE):
        figure = Figure(figsize=(9, 3), dpi=150, layout="constrained")
        *histograms, panel = figure.subplots(1, 3)
        for histogram, column, label in zip(histograms, ("rt60_measured", "drr"), (RT60, DRR)):
            histogram.hist(table[column], bins=20, **bars(0))
            histogram.set(xlabel=label, ylabel="rooms")
        points = panel.scatter(table["distance"], table["drr"], c=table["rt60_measured"], s=8, cmap=SCORE)
        panel.set(xlabel="distance [m]", ylabel=DRR)
        figure.colorbar(points, ax=panel, label=RT60)
    return figure
