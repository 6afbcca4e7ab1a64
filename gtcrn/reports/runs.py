"""Reading of finished runs from their folders: a table with a row per run, their learning curves and their scores.

runs = read_runs("outputs/2025-01-31")
runs.loc[runs["state"] == "finished", [*differing(runs), "test.enhanced_pesq_wb", "cost.mmacs_exact"]]
curves(runs).query("metric == 'val/pesq_wb'")
"""

from __future__ import annotations

import json
import logging
import os
import re
import shlex
from collections.abc import Callable, Sequence
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from gtcrn.data import audio
from gtcrn.errors import UserError
from gtcrn.plots.tables import unmarked

log = logging.getLogger(__name__)

TASKS = ("train", "evaluate")  # tasks whose runs have results to compare
RESULTS = ("cost.", "test.", "validation.")  # prefixes of the columns of results
_NUMBERS = ("seconds", "steps", "data_wait")
_FACTS = ("run", "path", "state", "error", "overrides", "tested_on", *_NUMBERS)
_OUTPUTS = {"summary.json", "error.txt", "hparams.yaml", "metrics.csv"}
# keys that leave results as they are
NO_DIFFERENCE = ("run_dir", "run_name", "resume", "threads", "kernels", "logger", "sweep", "imports")


def read_runs(*folders: Path | str) -> pd.DataFrame:
    """Read every training and evaluation run in or below the folders, a row each, in natural order of their names.

    Columns:
        run         path relative to the folder, or to the folders' common parent; a single run's own name
        path        its absolute folder
        state       finished (there is a summary.json), failed (an error.txt, or a file that can't be read)
                    or unfinished (neither: interrupted, or still running)
        error       "" or the one line that says what went wrong
        overrides   the overrides on the command line, as one would type them again
        tested_on   the split, described in words if it is no test set
        seconds, steps, data_wait   from the summary
        seed, model.r, loss.terms.sisdr.weight …   the flat configuration, interpolations as they were written,
                    lists as text
        model, loss, data, training/masks …   the choice of each configuration group
        cost.<name>, test.{noisy,enhanced,improvement}_<metric>, validation.<name as logged, e.g. val/pesq_wb>
    A value that a run does not have is nan. The configuration is that of `.hydra`, or of `hparams.yaml` if `run_dir=`
    sent the results elsewhere.

    Raises UserError for a folder that does not exist. A problem of a single run is named in its row.
    """
    roots = [Path(folder).resolve() for folder in folders]
    for folder, root in zip(folders, roots):
        if not root.is_dir():
            raise UserError(f"{folder}: no such folder; expected one that runs were written to")
    rows = {}
    for root in roots:
        for folder, below, files in os.walk(root):
            if ".hydra" not in below and _OUTPUTS.isdisjoint(files):
                continue
            if row := _read(Path(folder), set(files)):
                rows[folder] = row
                below.clear()  # what lies in a run belongs to it
    base = os.path.commonpath(roots) if roots else ""
    ordered = sorted(rows.items(), key=lambda item: _natural(item[0]))
    named = [
        {"run": os.path.basename(folder) if folder == base else os.path.relpath(folder, base), "path": folder} | row
        for folder, row in ordered
    ]
    frame = pd.DataFrame(named)
    results = [column for column in frame if column.startswith(RESULTS)]
    configuration = config_columns(frame)
    numbers = [*_NUMBERS, *results]
    frame = frame.reindex(columns=[*_FACTS, "seed", *configuration.drop("seed", errors="ignore"), *results])
    frame[numbers] = frame[numbers].apply(pd.to_numeric, errors="coerce")
    return frame


def choices_of(checkpoint: Path) -> dict[str, str]:
    """Return the choices of model, loss and data of the run that a checkpoint lies in; {} if it lies in none."""
    folder = checkpoint.resolve().parent
    runs = read_runs(folder.parent) if folder.name == "checkpoints" else ()
    if len(runs) != 1:
        return {}
    run = runs.iloc[0]
    return {group: run[group] for group in ("model", "loss", "data") if isinstance(run.get(group), str)}


def curves(runs: pd.DataFrame, metrics: Sequence[str] | None = None) -> pd.DataFrame:
    """Read what runs of `read_runs` logged, all of it or the `metrics` alone; one row per value.

    Columns: run, step (of the optimiser), epoch, metric (as logged, e.g. train/loss, val/pesq_wb), value.
    """
    keys = ["step", "epoch"]
    columns = None if metrics is None else [*keys, *metrics]
    tables = {run: _table(Path(path) / "metrics.csv", columns) for run, path in zip(runs["run"], runs["path"])}
    logged = {run: table for run, table in tables.items() if set(keys) < set(table)}
    if not logged:
        return pd.DataFrame(columns=["run", *keys, "metric", "value"]).astype({"step": int, "value": float})
    wide = pd.concat(logged, names=["run"]).apply(pd.to_numeric, errors="coerce").reset_index("run")
    long = wide.melt(["run", *keys], var_name="metric").dropna(subset=["step", "value"])
    return long.astype({"step": int}).reset_index(drop=True)


def scores(runs: pd.DataFrame) -> pd.DataFrame:
    """Read the scores of every utterance that runs of `read_runs` were tested on; one row per run and utterance.

    Columns: run, name, snr (dB), {noisy,enhanced}_<metric>, failures.
    """
    tables = {
        run: _table(Path(path) / file)
        for run, path in zip(runs["run"], runs["path"])
        for file in ("scores.csv", "test/scores.csv")  # of task=evaluate, of task=train
        if (Path(path) / file).is_file()
    }
    scored = {run: table for run, table in tables.items() if "name" in table}
    if not scored:
        return pd.DataFrame(columns=["run", "name", "snr", "failures"])
    return pd.concat(scored, names=["run"]).reset_index("run").reset_index(drop=True)


def recording(folder: Path, name: str) -> Path | None:
    """Return the audio file of this name in the folder, or None.

    Files outside the folder don't count, since anybody may have written the names in a scores.csv.
    """
    found = (folder / f"{name}{suffix}" for suffix in audio.SUFFIXES)
    home = folder.resolve()
    return next((file for file in found if file.is_file() and file.resolve().is_relative_to(home)), None)


def config_columns(runs: pd.DataFrame) -> pd.Index:
    """Return the columns of `read_runs` that hold a run's configuration."""
    return pd.Index(
        [column for column in runs if column not in _FACTS and not column.startswith(RESULTS)], dtype=object
    )


def configured(runs: pd.DataFrame) -> pd.Series:
    """Return for each run whether its configuration is known."""
    return runs[config_columns(runs)].notna().any(axis=1)


def is_limit(column: str) -> bool:
    """Return whether a column limits how much of the data a run uses, such as trainer.limit_train_batches."""
    return column.split(".")[-1].startswith("limit_")


def differing(runs: pd.DataFrame) -> list[str]:
    """Return the columns of the configuration in which the finished runs differ, the overridden ones first.

    The seed is one of them. Columns that merely follow from an override are left out: where models differ, `model` is
    returned, and not all their knobs. Runs without a configuration don't count, nor do paths such as `run_dir`, or
    limits and numbers of test files, by which `comparable` groups runs. If no run is finished, all runs count.

    Runs of different tasks have other keys, so that those count in which runs of one task differ, and task and ckpt.
    """
    finished = runs["state"] == "finished"
    runs = runs[finished] if finished.any() else runs
    by_task = [own for _, own in runs[configured(runs)].groupby("task", sort=False)] if "task" in runs else []
    if len(by_task) > 1:
        own = [column for runs_of_task in by_task for column in differing(runs_of_task)]
        return list(dict.fromkeys([*own, "task", *(["ckpt"] if "ckpt" in runs else [])]))
    known = runs.loc[configured(runs), config_columns(runs)]
    known = known[[column for column in known if _may_differ(column)]]
    keys = {
        re.split("[=@]", override.lstrip("+~"))[0]: None  # a set in the order of typing
        for overrides in runs["overrides"].unique()
        for override in shlex.split(overrides)
    }
    varied = [column for column in known if known[column].nunique() + known[column].isna().any() > 1]
    typed = list(dict.fromkeys(column for key in keys for column in varied if _sets(key, column, known)))
    kind = known.groupby(typed, dropna=False, sort=False).ngroup() if typed else pd.Series(0, known.index)
    others = [column for column in known if column not in typed and known[column].nunique() > 1]
    return typed + [column for column in others if not typed or known[column].groupby(kind).nunique().max() > 1]


def _may_differ(column: str) -> bool:
    parts = column.split(".")
    return parts[0] not in NO_DIFFERENCE and not is_limit(column) and parts[-1] != "test_files"


def _sets(key: str, column: str, groups: pd.DataFrame) -> bool:
    """Return whether an override of `key` sets `column`: model={r:8} sets model.r, model=light_v3 chooses a group."""
    return column == key or (column.startswith(f"{key}.") and key not in groups)


def _read(folder: Path, files: set[str]) -> dict[str, Any] | None:
    """Return the row of a run's folder; None if it is no run, or one that wrote its results elsewhere."""
    row = {"state": "unfinished", "error": "", "overrides": ""}
    try:
        row |= _configuration(folder)
        if row.get("task", "train") not in TASKS:
            return None
        elsewhere = row.get("resume") or row.get("run_dir") != "${hydra:runtime.output_dir}"
        if elsewhere and _OUTPUTS.isdisjoint(files):
            return None
        if "summary.json" in files:
            row |= _parsed(folder / "summary.json", _summary)
            row["state"] = "finished"
        elif "error.txt" in files:
            lines = _parsed(folder / "error.txt", str.splitlines)
            row["error"] = next((line.strip() for line in lines if line.strip()), "error.txt is empty")
            row["state"] = "failed"
    except UserError as error:
        row |= {"state": "failed", "error": str(error)}
    return row


def _parsed(path: Path, parse: Callable[[str], Any]) -> Any:
    """Parse the text of a file. Raises UserError, which names the file, if it can't be read."""
    try:
        return parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError, KeyError, AttributeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())[:120]
        raise UserError(f"{path.name} can't be read: {reason}") from None


def _configuration(folder: Path) -> dict[str, Any]:
    record = folder / ".hydra"
    for path in (record / "config.yaml", folder / "hparams.yaml"):
        if path.is_file():
            row = _parsed(path, _flat_yaml)
            break
    else:
        return {}
    if (record / "overrides.yaml").is_file():
        row["overrides"] = _parsed(record / "overrides.yaml", lambda text: shlex.join(_load(text)))
    if (record / "hydra.yaml").is_file():
        row |= _parsed(record / "hydra.yaml", _choices)
    return row


def _choices(text: str) -> dict[str, str]:
    """Return the choice of every group in the text of a hydra.yaml, by the group's name, without Hydra's own groups."""
    choices = _load(text)["hydra"]["runtime"]["choices"]
    groups = {group: group.split("@")[0] for group in choices if not group.startswith("hydra/")}
    # a group that is chosen from twice, such as the optimizer of a discriminator, goes by its whole name then
    return {group if name != group and name in groups else name: choices[group] for group, name in groups.items()}


def _flat_yaml(text: str) -> dict[str, Any]:
    return _flat(_load(text) or {})


_load = partial(yaml.load, Loader=yaml.CSafeLoader)  # ten times as fast as yaml.safe_load


def _summary(text: str) -> dict[str, Any]:
    summary = json.loads(text)
    evaluated = {
        name: value for name, value in summary.items() if name.split("_")[0] in ("noisy", "enhanced", "improvement")
    }
    results = {"test": evaluated} | {name: summary[name] for name in ("cost", "test", "validation") if name in summary}
    return _flat(results) | {name: summary.get(name) for name in ("tested_on", *_NUMBERS)}


def _flat(tree: dict, prefix: str = "") -> dict[str, Any]:
    """Flatten a configuration: {"a": {"b": [1, 2]}} becomes {"a.b": "[1, 2]"}."""
    flat = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        elif is_limit(key) and isinstance(value, float):  # a share; limit_train_batches=1 is a single batch
            flat[f"{prefix}{key}"] = f"{100 * value:g} %"
        else:
            flat[f"{prefix}{key}"] = f"[{', '.join(map(str, value))}]" if isinstance(value, list) else value
    return flat


def _table(path: Path, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """Read those of the columns that a CSV file has, without an unfinished last line; empty if it can't be read."""
    if not path.is_file():
        return pd.DataFrame()
    try:
        whole_lines = path.read_text(encoding="utf-8").rpartition("\n")[0]
        table = pd.read_csv(
            StringIO(whole_lines),
            usecols=columns and (lambda column: column in columns),
            dtype={"name": str},
            keep_default_na=False,  # an utterance may be called 007 or NA
            na_values=[""],
        )
        return table.assign(name=unmarked(table["name"])) if "name" in table else table
    except (OSError, ValueError) as error:  # pandas' own errors are ValueErrors
        log.warning("%s is left out: %s", path, " ".join(str(error).split())[:120])
        return pd.DataFrame()


def _natural(name: str) -> list[tuple[int, str]]:
    """Return a sort key that puts run 10 after run 9."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]
