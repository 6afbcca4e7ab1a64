"""task=report: runs are read back from their folders and compared in a table, figures and a page to listen to."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig, ListConfig
from rich.console import Console

from gtcrn.errors import UserError
from gtcrn.reports import paired_report, sweep_report, sweeps
from gtcrn.reports.runs import read_runs

log = logging.getLogger(__name__)

ON_PAGE = 8  # configurations; more are hard to tell apart, and the page would be large


def run(cfg: DictConfig) -> None:
    if not cfg.runs:
        raise UserError("task=report needs runs=…, a folder of runs or several: 'runs=[a,b]'")
    folders = [Path(str(folder)) for folder in (cfg.runs if isinstance(cfg.runs, ListConfig) else [cfg.runs])]
    output = Path(cfg.output or (folders[0] if len(folders) == 1 else cfg.run_dir))
    report(folders, output, cfg.metric, cfg.page, None if cfg.reference is None else str(cfg.reference))


def report(
    folders: Sequence[Path],
    output: Path,
    metric: str | None = None,
    page: bool = True,
    reference: str | None = None,
) -> list[Path]:
    """Compare all runs below the folders, write the report to `output`, print its table, and return the paths written.

    Runs that failed are reported like others, also if all of them did. Raises UserError for a folder that is not
    there or holds no runs, a metric that none of the finished runs has, an unknown reference, and an output that can't
    be written to.
    """
    runs = read_runs(*folders)
    if runs.empty:
        names = ", ".join(map(str, folders))
        raise UserError(f"runs={names}: no training or evaluation run in or below it; name a folder of outputs/")
    compared = sweeps.compare(runs, metric, reference)
    try:
        written = sweep_report.write(compared, output)
    except OSError as error:
        raise UserError(f"{output}: can't be written to ({error.strerror}); name another folder with output=") from None
    for earlier in output.glob("listening_[0-9]*.html"):
        earlier.unlink()
    if page:
        for number, sweep in enumerate(compared, 1):
            written += listening_page(sweep, output / f"listening{f'_{number}' if number > 1 else ''}.html")
    console = Console()
    console.print(*sweep_report.terminal(compared), sep="\n")
    for path in written:
        console.print(str(path), soft_wrap=True, highlight=False, markup=False)
    return written


def listening_page(sweep: sweeps.Sweep, path: Path) -> list[Path]:
    """Write the page of the best configurations with audio, one run of each, and return its path; [] without audio."""
    from gtcrn.reports.listening import write_page

    finished = sweep.runs["state"] == "finished"
    paths = sweep.runs["path"][finished].map(Path).groupby(sweep.configurations).first()
    audible = [kind for kind in sweep.means.index if has_audio(paths[kind])]
    chosen = {sweep.names[kind]: paths[kind] for kind in audible[:ON_PAGE]}
    if not chosen:
        return []
    try:
        return [write_page(chosen, path, compared=paired_report.content(sweep))]
    except UserError as error:
        log.warning("no page to listen to: %s", error)
        return []


def has_audio(folder: Path) -> bool:
    return any((folder / name).is_dir() for name in ("test/enhanced", "enhanced"))
