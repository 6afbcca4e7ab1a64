"""Helpers for notebooks: opening runs, or saying in one line how to make some, and showing figures."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib
import pandas as pd
from IPython.display import Markdown, display
from matplotlib.figure import Figure

from gtcrn.errors import UserError
from gtcrn.files import expanded
from gtcrn.plots.figures import STYLE
from gtcrn.reports.breakdown import results
from gtcrn.reports.runs import read_runs
from gtcrn.reports.sweeps import Sweep, arrange

VARIABLE = "GTCRN_RUNS"  # environment variable
_DEFAULT = "outputs"


def open_runs(command: str, folder: Path | str | None = None) -> pd.DataFrame:
    """Read the runs of a folder; a relative one is looked up here and one folder above, since notebooks lie in one.

    command: the command that makes such runs. folder: None for the one in GTCRN_RUNS, or else outputs.

    Raises UserError, which names the command, if no run is finished.
    """
    wanted = expanded(folder or os.environ.get(VARIABLE) or _DEFAULT)
    here = Path.cwd()
    found = next((parent / wanted for parent in (here, here.parent) if (parent / wanted).is_dir()), None)
    if found is None:
        raise UserError(f"{wanted}: no such folder; name another one in RUNS, or make runs with: {command}")
    runs = read_runs(found)
    if not (runs["state"] == "finished").any():
        raise UserError(f"{wanted}: no finished run in it yet; make some with: {command}")
    return runs


def swept(runs: pd.DataFrame, knobs: Sequence[str], command: str) -> pd.DataFrame:
    """Return the runs that have a value of each knob, a column of `read_runs`.

    Raises UserError, which names the command that makes such runs, if a knob has the same value in all runs.
    """
    known = runs.dropna(subset=[knob for knob in knobs if knob in runs])
    for knob in knobs:
        if knob not in known or known[knob].nunique() < 2:
            raise UserError(f"{knob} does not vary in these {len(runs)} runs; make some with: {command}")
    return known


def best_runs(sweep: Sweep, count: int, holding: str, command: str) -> pd.DataFrame:
    """Return a finished run of each of the best `count` configurations, named by what differs between them.

    holding: a file or folder that must exist in the run's `results`, e.g. scores.csv or enhanced.

    Raises UserError, which names the command that makes such runs, if there are none.
    """
    finished = sweep.runs[sweep.runs["state"] == "finished"]
    held = finished[[(results(path) / holding).exists() for path in finished["path"]]]
    if held.empty:
        raise UserError(f"none of the {len(finished)} finished runs has {holding}; make some with: {command}")
    kinds = sweep.configurations[held.index]
    first = held[~kinds.duplicated()].set_index(kinds[~kinds.duplicated()])
    best = first.loc[[kind for kind in sweep.means.index if kind in first.index][:count]]
    if len(best) == 1:
        return best
    among = arrange(best)  # so that names leave out what is the same in all that are left
    names = among.names[among.configurations].set_axis(best.index)
    return best.assign(run=names.where(~names.duplicated(keep=False), names + " " + best["run"]))


def show(draw: Callable[..., Figure | tuple[Figure, str] | str | None], *arguments, **keywords) -> None:
    """Display the figure that a function draws, with its caption if it has one, or the reason why it drew none."""
    with matplotlib.rc_context(STYLE):
        drawn = draw(*arguments, **keywords)
    figure, caption = drawn if isinstance(drawn, tuple) else (drawn, "")
    if isinstance(figure, str):
        caption = f"Nothing to draw: {figure}."
    elif figure is None:
        caption = "Nothing to draw: these runs have none of what this picture compares, or do not differ in it."
    else:
        display(figure)
    if caption:
        display(Markdown(caption))
