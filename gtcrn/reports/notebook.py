"""What a notebook begins with: its runs, or one line that says how to make some; and how it shows a picture."""

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

VARIABLE = "GTCRN_RUNS"  # of the environment
_DEFAULT = "outputs"


def open_runs(command: str, folder: Path | str | None = None) -> pd.DataFrame:
    """`read_runs` of a folder; a relative one is looked for here and in the folder above, as notebooks are in one.

    command: what to type for runs like those that are needed.
    folder: None stands for the one in GTCRN_RUNS, or else for outputs.

    Raises UserError, with the command, where no run is finished.
    """
    wanted = expanded(folder or os.environ.get(VARIABLE) or _DEFAULT)
    here = Path.cwd()
    place = next((place / wanted for place in (here, here.parent) if (place / wanted).is_dir()), None)
    if place is None:
        raise UserError(f"{wanted}: no such folder; name another one in RUNS, or make runs with: {command}")
    runs = read_runs(place)
    if not (runs["state"] == "finished").any():
        raise UserError(f"{wanted}: no finished run in it yet; make some with: {command}")
    return runs


def swept(runs: pd.DataFrame, knobs: Sequence[str], command: str) -> pd.DataFrame:
    """The runs that have a value of each knob, a column of `read_runs`.

    Raises UserError, with the command that makes some, if one of them has the same value in all runs.
    """
    known = runs.dropna(subset=[knob for knob in knobs if knob in runs])
    for knob in knobs:
        if knob not in known or known[knob].nunique() < 2:
            raise UserError(f"{knob} does not vary in these {len(runs)} runs; make some with: {command}")
    return known


def best_runs(sweep: Sweep, count: int, holding: str, command: str) -> pd.DataFrame:
    """A finished run of each of the best `count` configurations; `run` tells in what they differ.

    holding: what there must be among the run's `results`, e.g. scores.csv or enhanced.

    Raises UserError, with the command that makes some, where there are none.
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
    among = arrange(best)  # a name need not tell what is the same in all that are left
    names = among.names[among.configurations].set_axis(best.index)
    return best.assign(run=names.where(~names.duplicated(keep=False), names + " " + best["run"]))


def show(draw: Callable[..., Figure | tuple[Figure, str] | str | None], *arguments, **keywords) -> None:
    """Display the figure that a function draws, above its caption if it has one; or say that it drew none, and why."""
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
