"""The logger of Weights & Biases. All that it shows is on disk too, and its errors never stop a training."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import suppress
from functools import partial, wraps
from pathlib import Path
from threading import Thread
from typing import Any

# Before PyTorch and Lightning: for each of its hundreds of classes W&B looks through all modules that are imported
import wandb

# isort: split
import numpy as np
import pandas as pd
import pytorch_lightning as pl
import requests
from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.utilities import rank_zero_only

from gtcrn.errors import UserError
from gtcrn.metrics import METRICS, WavePair, more_is_better
from gtcrn.plots.figures import spectrogram_figure
from gtcrn.plots.tables import score_texts, summarise_by_snr
from gtcrn.revision import revision

log = logging.getLogger(__name__)

RECORD = "wandb/run.json"  # in the run's folder: its id, its group, and the id under which it was online

_STEP = "trainer/global_step"  # Lightning's name; W&B's own step restarts at 0 when an offline run is resumed
_SECTIONS = ("cost", "best", "test")  # of summary.json
_ANSWER = 5  # s within which the server must answer
_BEGINNING = 30  # s within which it must have started a run
_ROLES = ("noisy", "enhanced", "clean")


def _dispensable(method: Callable[..., None]) -> Callable[..., None]:
    """Run the method in the first process only, and log its errors in one line instead of ending the run."""

    @wraps(method)
    def guarded(self: Dashboard, *arguments: Any, **options: Any) -> None:
        if self.ended:
            return
        try:
            method(self, *arguments, **options)
        except ConnectionError as error:  # W&B's own process on this machine was killed
            self.ended = True
            log.warning("W&B: %s; it is sent no more of this run, which goes on", _line(error))
            with suppress(Exception):
                wandb.teardown()  # so that the next run in this process starts a new one
        except Exception as error:
            if method.__name__ not in self._reported:
                self._reported.add(method.__name__)
                log.warning("W&B: %s failed: %s; the run goes on", method.__name__, _line(error))

    return rank_zero_only(guarded)


class Dashboard(WandbLogger):
    """Lightning's W&B logger, with the tables, media, artifacts and groups of a run.

    folder: that of the run; W&B's files go to `wandb` in it.
    mode: online, offline or disabled. An online run that can't start (no network, no login) is logged offline, with a
        warning.
    name: None for the folder's name. group: common name of runs that belong together; None for the name of the sweep,
        or of a single run, whose continuations share it. sweep: the folder of the sweep, if there is one.
    resumed_from: the checkpoint from which the run is resumed. A run that was online continues as the same W&B run.
        Offline, where none can be reopened, a new one of the same group names its predecessor as `resumed_from`.
    watch: log histograms of gradients, parameters or all every `watch_every` steps; None for none.
    examples: number of test files that are shown with audio and spectrogram.
    log_model: log the best weights as an artifact. Offline it refers to the file in the run's folder.
    upload_seconds: how long the end of a run may wait for uploads.
    """

    def __init__(
        self,
        folder: str,
        project: str,
        mode: str = "offline",
        name: str | None = None,
        group: str | None = None,
        sweep: str | None = None,
        job_type: str | None = None,
        tags: Sequence[str] = (),
        resumed_from: str | None = None,
        watch: str | None = None,
        watch_every: int = 100,
        examples: int = 12,
        log_model: bool = True,
        upload_seconds: int = 60,
    ):
        for key, value, allowed in (
            ("mode", mode, ("online", "offline", "disabled")),
            ("watch", watch, (None, "gradients", "parameters", "all")),
        ):
            if value not in allowed:
                choices = ", ".join(choice or "null" for choice in allowed)
                raise UserError(f"logger.{key}={value}: must be one of {choices}")
        self.watched, self.watch_every = watch, watch_every
        self.examples, self.keep_model, self.upload_seconds = examples, log_model, upload_seconds
        run = None
        if rank_zero_only.rank == 0:
            root = Path(folder).resolve()
            earlier = _recorded(root) if resumed_from else {}
            # otherwise the sounds of tables would stay in the user's home until an offline run is synchronised
            os.environ["WANDB_DATA_DIR"] = str(root / "wandb")
            run = _begin(
                mode,
                earlier,
                name or root.name,
                {"git": revision(), "host": platform.node()},
                project=project,
                dir=folder,
                group=group or earlier.get("group") or _sweep_of(root, sweep) or name or root.name,
                job_type=job_type,
                tags=list(tags),
                settings=wandb.Settings(
                    init_timeout=_BEGINNING,
                    finish_timeout=upload_seconds,
                    finish_timeout_raises=True,
                    reinit="finish_previous",  # an earlier job in this process may have left a run open
                ),
            )
            run.define_metric(_STEP)
            run.define_metric("*", step_metric=_STEP, step_sync=True)
            if mode != "disabled":
                online = earlier.get("online") if run.offline else run.id
                (root / RECORD).write_text(json.dumps({"run": run.id, "group": run.group, "online": online}))
        super().__init__(save_dir=folder, project=project, experiment=run)
        self.ended = False
        self._reported: set[str] = set()
        self._defined: set[str] = set()

    @_dispensable
    def log_hyperparams(self, params: Mapping[str, Any]) -> None:
        super().log_hyperparams(params)

    @_dispensable
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Log as Lightning does, but let the summary have the best value of each validated metric and loss."""
        for name in sorted(metrics.keys() - self._defined):
            self._defined.add(name)
            if isinstance(metrics[name], int | float) and (best := _best(name)):
                self.experiment.define_metric(name, step_metric=_STEP, step_sync=True, summary=best)
        super().log_metrics(metrics, step)

    @_dispensable
    def log_graph(self, model: pl.LightningModule, input_array: Any = None) -> None:
        """Watch gradients or parameters. Lightning calls this when training begins."""
        if self.watched:  # only the core is called as a module, and histograms need that
            self.watch(model.enhancer.core, self.watched, self.watch_every, log_graph=False)

    @_dispensable
    def log_scores(self, scores: pd.DataFrame, pairs: Sequence[WavePair], sample_rate: int) -> None:
        """Log the test: `test/utterances`, a row per file, and `test_by_snr`, the means and a bar chart of each metric.

        scores: those of the pairs, in the same order. Files with audio and spectrogram come first: the worst, the
        median and the best by the first metric, then others from the worst to the best.
        """
        shown = _examples(scores, self.examples)
        columns = [*scores, *_ROLES, "spectrogram"]
        rows = []
        for index in (*shown, *scores.index.difference(shown, sort=False)):
            media = _media(pairs[index], sample_rate, scores.loc[index]) if index in shown else {}
            known = scores.loc[index].dropna().to_dict() | media
            rows.append([known.get(column) for column in columns])
        logged = {"test/utterances": wandb.Table(columns, rows)}
        if by_snr := summarise_by_snr(scores):
            means = pd.DataFrame([
                {"input SNR": label}
                | {
                    f"{condition}_{metric}": row[condition]
                    for metric, row in summary.iterrows()
                    for condition in ("noisy", "enhanced")
                    if condition in row
                }
                for label, summary in by_snr.items()
            ])  # fmt: skip
            logged["test_by_snr/means"] = wandb.Table(dataframe=means)
            for column in means.filter(like="enhanced_"):
                bars = wandb.Table(dataframe=means[["input SNR", column]])
                logged[f"test_by_snr/{column}"] = wandb.plot.bar(bars, "input SNR", column, title=column)
        self._send(self.experiment.log, logged)

    @_dispensable
    def log_summary(self, summary: Mapping[str, Any]) -> None:
        """Log the numbers of summary.json: `cost/…`, `best/…`, `test/…`, and those outside a section."""
        numbers = {name: value for name, value in summary.items() if isinstance(value, int | float)}
        for section in _SECTIONS:
            numbers |= {f"{section}/{name}": value for name, value in summary.get(section, {}).items()}
        self.experiment.summary.update(numbers)

    @_dispensable
    def log_model(self, checkpoint: Path, config: Mapping[str, Any], metadata: Mapping[str, Any]) -> None:
        """Log the weights as an artifact with the alias `best`. config: what distinguishes runs, logged as a hash."""
        if self.keep_model:
            digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode()).hexdigest()
            facts = {"config_sha256": digest, "git": revision(), **metadata}
            self._send(self.experiment.log_artifact, _model(checkpoint, facts), aliases=["best"])

    @_dispensable
    def use_model(self, checkpoint: Path) -> None:
        """Draw the lineage from a checkpoint that this run builds on, of an earlier run or a published one.

        W&B accepts it online only, and waits for its server; the training does not.
        """
        if not self.experiment.offline and checkpoint.is_file():
            artifact = _model(checkpoint)
            _beside(self.experiment.use_artifact, artifact).add_done_callback(partial(_tell_undrawn, artifact.name))

    @_dispensable
    def finish(self, failed: bool) -> None:
        """End the W&B run. Whatever is not sent within `upload_seconds` stays on disk, with a warning."""
        try:
            self.experiment.finish(exit_code=int(failed))
        except TimeoutError:
            log.warning(
                "W&B: not everything was sent within %d s; the rest is sent by: wandb sync %s",
                self.upload_seconds,
                self.experiment.settings.sync_dir,
            )

    def _send(self, call: Callable[..., Any], *arguments: Any, **options: Any) -> None:
        """Call a W&B function that may wait for its server. Raises TimeoutError after `upload_seconds`."""
        sending = _beside(call, *arguments, **options)
        if not wait([sending], timeout=self.upload_seconds).done:
            raise TimeoutError(f"no answer within {self.upload_seconds} s")
        sending.result()


def _begin(mode: str, *run: Any, **arguments: Any) -> wandb.Run:
    """Start a W&B run as `_start` does, offline if it can't start online."""
    if mode != "online":
        return _start(mode, *run, **arguments)
    try:
        _check_server()
        return _start(mode, *run, **arguments)
    except Exception as error:  # any error, because the training matters more
        reason = _line(error)
    begun = _start("offline", *run, **arguments)
    log.warning(
        "W&B: %s; this run is logged offline, and sent later by: wandb sync %s", reason, begun.settings.sync_dir
    )
    return begun


def _start(mode: str, earlier: Mapping[str, str], name: str, config: dict, **arguments: Any) -> wandb.Run:
    """Call `wandb.init`: online for the same W&B run as `earlier`, else for a new one that names its predecessor."""
    same = earlier.get("online") if mode == "online" else None
    if earlier and not same:
        name, config = f"{name} (resumed)", config | {"resumed_from": earlier["run"]}
    return wandb.init(mode=mode, id=same, resume="allow" if same else None, name=name, config=config, **arguments)


def _check_server() -> None:
    """Raise ConnectionError if an online run can't start: without a login, or without an answer of the server.

    W&B itself would ask for the login on the terminal, and wait long for a dead server at the end of the run.
    """
    if not wandb.login(prompt=False, verify=False):
        raise ConnectionError("no login (wandb login makes one)")
    server = wandb.setup().settings.base_url
    try:
        requests.head(server, timeout=_ANSWER)
    except requests.exceptions.SSLError:
        pass  # it answers; W&B itself judges the certificate
    except requests.RequestException:
        raise ConnectionError(f"{server} does not answer") from None


def _best(name: str) -> str | None:
    """Return which value of a metric W&B's summary has, `max` or `min`; None for the last one."""
    folder, _, metric = name.partition("/")
    if folder != "val" or metric == "failures":
        return None
    return "max" if more_is_better(name) else "min"


def _recorded(folder: Path) -> dict[str, str]:
    record = folder / RECORD
    return json.loads(record.read_text()) if record.is_file() else {}


def _sweep_of(folder: Path, sweep: str | None) -> str | None:
    root = Path(sweep).resolve() if sweep else None
    return root.name if root in folder.parents else None


def _examples(scores: pd.DataFrame, count: int) -> list[int]:
    """Return rows of the worst, the median and the best file by the first metric, then others from the whole range."""
    column = next(column for column in scores if column.startswith("enhanced_"))
    metric = METRICS[column.removeprefix("enhanced_")]
    ranked = metric.goodness(scores[column]).sort_values(na_position="first").index
    last = len(ranked) - 1
    ranks = [0, len(ranked) // 2, last, *np.linspace(0, last, count).round().astype(int)]
    return [int(ranked[rank]) for rank in dict.fromkeys(ranks)][:count]


def _media(pair: WavePair, sample_rate: int, scores: pd.Series) -> dict[str, Any]:
    signals = pair.signals()
    waves = {role: signals[role] for role in _ROLES if role in signals}
    sounds = {role: wandb.Audio(wave, sample_rate, caption=f"{pair.name} {role}") for role, wave in waves.items()}
    figure = spectrogram_figure(waves, sample_rate, title=pair.name, scores=score_texts(scores))
    return sounds | {"spectrogram": wandb.Image(figure)}


def _model(checkpoint: Path, metadata: Mapping[str, Any] | None = None) -> wandb.Artifact:
    """Return the artifact of a checkpoint, named after the W&B run that wrote it, else after the file.

    W&B takes equal files of one name for one version, so that a later run uses the artifact that an earlier one logged.
    """
    run = _recorded(checkpoint.resolve().parent.parent).get("run")
    name = f"model-{run}" if run else re.sub(r"[^\w.-]", "-", checkpoint.stem)
    artifact = wandb.Artifact(name, "model", metadata=dict(metadata or {}))
    artifact.add_file(str(checkpoint), policy="immutable")  # makes no second copy in the user's home
    return artifact


def _beside(call: Callable[..., Any], *arguments: Any, **options: Any) -> Future:
    """Run `call` in a thread for which, unlike an executor's, the process does not wait at its end."""
    future: Future = Future()

    def work() -> None:
        try:
            future.set_result(call(*arguments, **options))
        except Exception as error:
            future.set_exception(error)

    Thread(target=work, daemon=True).start()
    return future


def _tell_undrawn(name: str, use: Future) -> None:
    if error := use.exception():
        log.warning("W&B: the lineage from %s is not drawn: %s", name, _line(error))


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
