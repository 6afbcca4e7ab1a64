"""A run on Weights & Biases. What it shows is on disk too, and what goes wrong there never stops a training."""

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

import numpy as np
import pandas as pd
import pytorch_lightning as pl
import requests
import wandb
from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.utilities import rank_zero_only

from gtcrn.errors import UserError
from gtcrn.metrics import METRICS, WavePair, more_is_better
from gtcrn.plots.figures import spectrogram_figure
from gtcrn.plots.tables import summarise_by_snr
from gtcrn.revision import revision

log = logging.getLogger(__name__)

RECORD = "wandb/run.json"  # in the run's folder: its id, its group, and the id under which it was online

_STEP = "trainer/global_step"  # Lightning's name; W&B's own step begins anew when an offline run is resumed
_SECTIONS = ("cost", "best", "test")  # of summary.json
_ANSWER = 5  # s in which a server must answer at all
_BEGINNING = 30  # s in which it must have begun a run
_ROLES = ("noisy", "enhanced", "clean")


def _dispensable(method: Callable[..., None]) -> Callable[..., None]:
    """Of the first process only; what goes wrong in it is told in a line, and no reason to end the run."""

    @wraps(method)
    def guarded(self: Dashboard, *arguments: Any, **options: Any) -> None:
        if self.ended:
            return
        try:
            method(self, *arguments, **options)
        except ConnectionError as error:  # to W&B's own process on this machine, which was killed
            self.ended = True
            log.warning("W&B: %s; it is sent no more of this run, which goes on", _line(error))
            with suppress(Exception):
                wandb.teardown()  # so that the next run of this process begins with another one
        except Exception as error:
            if method.__name__ not in self._told:
                self._told.add(method.__name__)
                log.warning("W&B: %s failed: %s; the run goes on", method.__name__, _line(error))

    return rank_zero_only(guarded)


class Dashboard(WandbLogger):
    """Lightning's W&B logger, and what else a run has to show.

    folder: the run's own; W&B's files go to `wandb` in it.
    mode: online, offline or disabled. An online run that can't begin (no network, no login) is logged offline, which
        a line says.
    name: None is the folder's. group: of runs that belong together; None is the name of the sweep, or of a single run
        its own, which its continuations share. sweep: the folder of the sweep, if the run's is in it.
    resumed_from: the checkpoint that the run goes on from, if it does. What was online goes on in the same W&B run.
        Offline, where none can be reopened, a new one of the same group names its predecessor as `resumed_from`.
    watch: histograms every `watch_every` steps, of gradients, parameters or all; None for none.
    examples: files of the test that are shown with audio and spectrogram.
    log_model: the best weights as an artifact. Offline it refers to the file in the run's folder.
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
            place = Path(folder).resolve()
            earlier = _recorded(place) if resumed_from else {}
            # else the table's sounds would lie in the user's home until an offline run is synchronised
            os.environ["WANDB_DATA_DIR"] = str(place / "wandb")
            run = _begin(
                mode,
                earlier,
                name or place.name,
                {"git": revision(), "host": platform.node()},
                project=project,
                dir=folder,
                group=group or earlier.get("group") or _sweep_of(place, sweep) or name or place.name,
                job_type=job_type,
                tags=list(tags),
                settings=wandb.Settings(
                    init_timeout=_BEGINNING,
                    finish_timeout=upload_seconds,
                    finish_timeout_raises=True,
                    reinit="finish_previous",  # one that an earlier job of this process may have left
                ),
            )
            run.define_metric(_STEP)
            run.define_metric("*", step_metric=_STEP, step_sync=True)
            if mode != "disabled":
                online = earlier.get("online") if run.offline else run.id
                (place / RECORD).write_text(json.dumps({"run": run.id, "group": run.group, "online": online}))
        super().__init__(save_dir=folder, project=project, experiment=run)
        self.ended = False
        self._told: set[str] = set()
        self._defined: set[str] = set()

    @_dispensable
    def log_hyperparams(self, params: Mapping[str, Any]) -> None:
        super().log_hyperparams(params)

    @_dispensable
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Lightning's, after which the summary has the best value of each validated metric and loss, not the last."""
        for name in sorted(metrics.keys() - self._defined):
            self._defined.add(name)
            if isinstance(metrics[name], int | float) and (best := _best(name)):
                self.experiment.define_metric(name, step_metric=_STEP, step_sync=True, summary=best)
        super().log_metrics(metrics, step)

    @_dispensable
    def log_graph(self, model: pl.LightningModule, input_array: Any = None) -> None:
        """Lightning calls it when training begins."""
        if self.watched:  # the core, because histograms need the call of a module, and nothing calls the whole one
            self.watch(model.enhancer.core, self.watched, self.watch_every, log_graph=False)

    @_dispensable
    def log_scores(self, scores: pd.DataFrame, pairs: Sequence[WavePair], sample_rate: int) -> None:
        """The test: `test/utterances`, a row per file, and `test_by_snr`, the means and a bar chart of each metric.

        scores: those of the pairs, in their order. Files with audio and spectrogram stand first: the worst, the median
        and the best one by the first metric, and then others from the worst to the best.
        """
        shown = _examples(scores, self.examples)
        columns = [*scores, *_ROLES, "spectrogram"]
        rows = []
        for index in (*shown, *scores.index.difference(shown, sort=False)):
            media = _media(pairs[index], sample_rate) if index in shown else {}
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
        """The numbers of summary.json: `cost/…`, `best/…`, `test/…`, and those that stand alone."""
        numbers = {name: value for name, value in summary.items() if isinstance(value, int | float)}
        for section in _SECTIONS:
            numbers |= {f"{section}/{name}": value for name, value in summary.get(section, {}).items()}
        self.experiment.summary.update(numbers)

    @_dispensable
    def log_model(self, checkpoint: Path, config: Mapping[str, Any], metadata: Mapping[str, Any]) -> None:
        """The weights as an artifact with the alias `best`. config: what tells runs apart, kept as a hash."""
        if self.keep_model:
            digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode()).hexdigest()
            facts = {"config_sha256": digest, "git": revision(), **metadata}
            self._send(self.experiment.log_artifact, _model(checkpoint, facts), aliases=["best"])

    @_dispensable
    def use_model(self, checkpoint: Path) -> None:
        """Draws the lineage from a checkpoint that this run builds on, a run's of ours or a published one.

        W&B takes it online only, and waits for the server, which training doesn't.
        """
        if not self.experiment.offline and checkpoint.is_file():
            artifact = _model(checkpoint)
            _beside(self.experiment.use_artifact, artifact).add_done_callback(partial(_tell_undrawn, artifact.name))

    @_dispensable
    def finish(self, failed: bool) -> None:
        """End the W&B run. What is not sent within `upload_seconds` stays on disk, which a line says."""
        try:
            self.experiment.finish(exit_code=int(failed))
        except TimeoutError:
            log.warning(
                "W&B: not everything was sent within %d s; the rest is sent by: wandb sync %s",
                self.upload_seconds,
                self.experiment.settings.sync_dir,
            )

    def _send(self, call: Callable[..., Any], *arguments: Any, **options: Any) -> None:
        """Online W&B asks its server before it takes a table or a file; a dead one must not hold up the run's end."""
        sending = _beside(call, *arguments, **options)
        if not wait([sending], timeout=self.upload_seconds).done:
            raise TimeoutError(f"no answer within {self.upload_seconds} s")
        sending.result()


def _begin(mode: str, *run: Any, **arguments: Any) -> wandb.Run:
    """`_start`, which falls back from online to offline."""
    if mode != "online":
        return _start(mode, *run, **arguments)
    try:
        _check_server()
        return _start(mode, *run, **arguments)
    except Exception as error:  # of whatever kind: the training matters more
        reason = _line(error)
    begun = _start("offline", *run, **arguments)
    log.warning(
        "W&B: %s; this run is logged offline, and sent later by: wandb sync %s", reason, begun.settings.sync_dir
    )
    return begun


def _start(mode: str, earlier: Mapping[str, str], name: str, config: dict, **arguments: Any) -> wandb.Run:
    """`wandb.init`: online the W&B run that `earlier` was online as, otherwise a new one that names its predecessor."""
    same = earlier.get("online") if mode == "online" else None
    if earlier and not same:
        name, config = f"{name} (resumed)", config | {"resumed_from": earlier["run"]}
    return wandb.init(mode=mode, id=same, resume="allow" if same else None, name=name, config=config, **arguments)


def _check_server() -> None:
    """Raise what keeps an online run from beginning.

    W&B itself would ask for the login on the terminal, and a server that does not answer keeps it busy at its end.
    """
    if not wandb.login(prompt=False, verify=False):
        raise ConnectionError("no login (wandb login makes one)")
    server = wandb.setup().settings.base_url
    try:
        requests.head(server, timeout=_ANSWER)
    except requests.exceptions.SSLError:
        pass  # it answers; which certificates are good is W&B's to decide
    except requests.RequestException:
        raise ConnectionError(f"{server} does not answer") from None


def _best(name: str) -> str | None:
    """W&B's word for the best value of what is logged under this name; None where the last one says more."""
    folder, _, metric = name.partition("/")
    if folder != "val" or metric == "failures":
        return None
    return "max" if more_is_better(name) else "min"


def _recorded(folder: Path) -> dict[str, str]:
    record = folder / RECORD
    return json.loads(record.read_text()) if record.is_file() else {}


def _sweep_of(folder: Path, sweep: str | None) -> str | None:
    place = Path(sweep).resolve() if sweep else None
    return place.name if place in folder.parents else None


def _examples(scores: pd.DataFrame, count: int) -> list[int]:
    """Rows of the worst, the median and the best file by the first metric, then others across the whole range."""
    column = next(column for column in scores if column.startswith("enhanced_"))
    metric = METRICS[column.removeprefix("enhanced_")]
    ranked = metric.goodness(scores[column]).sort_values(na_position="first").index
    last = len(ranked) - 1
    ranks = [0, len(ranked) // 2, last, *np.linspace(0, last, count).round().astype(int)]
    return [int(ranked[rank]) for rank in dict.fromkeys(ranks)][:count]


def _media(pair: WavePair, sample_rate: int) -> dict[str, Any]:
    signals = pair.signals()
    waves = {role: signals[role] for role in _ROLES if role in signals}
    sounds = {role: wandb.Audio(wave, sample_rate, caption=f"{pair.name} {role}") for role, wave in waves.items()}
    return sounds | {"spectrogram": wandb.Image(spectrogram_figure(waves, sample_rate, title=pair.name))}


def _model(checkpoint: Path, metadata: Mapping[str, Any] | None = None) -> wandb.Artifact:
    """Named after the W&B run that the checkpoint is of, else after the file.

    Equal files of one name are one version to W&B: so what a run logs and what a later one uses are the same.
    """
    run = _recorded(checkpoint.resolve().parent.parent).get("run")
    name = f"model-{run}" if run else re.sub(r"[^\w.-]", "-", checkpoint.stem)
    artifact = wandb.Artifact(name, "model", metadata=dict(metadata or {}))
    artifact.add_file(str(checkpoint), policy="immutable")  # no second copy in the user's home
    return artifact


def _beside(call: Callable[..., Any], *arguments: Any, **options: Any) -> Future:
    """`call` in a thread that the process does not wait for at its end, other than an executor's."""
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
