"""task=prepare: a corpus is made fit for training, from one folder into another, or made anew."""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, ListConfig, OmegaConf
from tqdm.contrib.logging import logging_redirect_tqdm

from gtcrn.data.manifest import FILE, Manifest, open_manifest, usable
from gtcrn.data.preparation.jobs import FAILURES, run_job
from gtcrn.data.preparation.output import OutputFolder
from gtcrn.data.preparation.rooms import TABLE as ROOMS
from gtcrn.data.preparation.selection import TABLE
from gtcrn.data.scan import BadFile
from gtcrn.errors import Interrupted, UserError, counted
from gtcrn.files import expanded
from gtcrn.reports import quality_report, rooms_report
from gtcrn.tasks.building import build

log = logging.getLogger(__name__)

NEEDS = {
    "resample": ("input", "output"),
    "segment": ("input", "output"),
    "filter": ("input", "output"),
    "pack": ("input", "output"),
    "degrade": ("output",),
    "rooms": ("output",),
    "manifest": ("input",),
}
WITHOUT_EFFECT = ("data.batch_size", "data.num_workers", "data.on_bad_file", "data.cache_dir")


def run(cfg: DictConfig) -> None:
    name = HydraConfig.get().runtime.choices["prepare"]
    check(cfg, name)
    try:
        with logging_redirect_tqdm():
            bad, where = write_manifest(cfg) if name == "manifest" else carry_out_step(cfg, name)
    except KeyboardInterrupt as stop:
        raise Interrupted.by(stop, "interrupted; the same command goes on where it stopped") from None
    if bad and cfg.on_bad_file == "fail":
        raise UserError(
            f"{len(bad)} of no use, the first: {bad[0]}; all are in {where}, the rest is done. "
            "Mend them and run this again, or accept it with on_bad_file=skip"
        )


def check(cfg: DictConfig, name: str) -> None:
    missing = [f"{key}=…" for key in NEEDS[name] if cfg[key] is None]
    if missing:
        others = "|".join(other for other in NEEDS if other != name)
        raise UserError(
            f"task=prepare prepare={name} needs {' and '.join(missing)} (other steps are prepare={others}); "
            "see gtcrn --help"
        )
    if cfg.input is not None and "input" not in NEEDS[name]:
        raise UserError(f"input={cfg.input}: prepare={name} reads no folder; leave input= out")
    if cfg.input is not None and cfg.output is not None and name != "manifest":
        source, target = (expanded(cfg[key]).resolve() for key in ("input", "output"))
        if source.is_dir() and (source == target or source in target.parents or target in source.parents):
            raise UserError(f"input={cfg.input} and output={cfg.output}: one lies in the other; name another output")


def open_input(cfg: DictConfig, anew: bool = False) -> tuple[Manifest, Manifest, list[BadFile]]:
    """Return all files, the good files, and the bad ones with their faults. anew: see `open_manifest`."""
    files = open_manifest(cfg.input, "input", cfg.cache_dir, cfg.speaker, anew)
    if cfg.max_files:
        files = files.select(np.arange(min(cfg.max_files, len(files))))
    good, bad = usable(files, sample_rate=0)
    for file in bad:
        log.warning("%s", file)
    return files, good, bad


def carry_out_step(cfg: DictConfig, name: str) -> tuple[list[BadFile], str]:
    """Carry out a step that writes files. Return the bad files, and where they are listed."""
    output = OutputFolder(expanded(cfg.output), cfg.shard_index, cfg.shard_count)
    step = build(cfg.prepare, data=build(cfg.data)) if name == "degrade" else build(cfg.prepare)
    if cfg.input is None:
        items, bad = step.work_items()[: cfg.max_files], []
    else:
        _, good, bad = open_input(cfg)
        items = step.work_items(good)
    with output.locked():
        settings = output_settings(cfg, name)
        adjustable = [key for key in settings if name == "filter" and key.startswith("prepare.")]
        output.check_settings(settings, adjustable)
        outcome = run_job(step, items, output, bad, cfg.workers, again=not cfg.skip_existing)
        if outcome.complete and name == "filter":
            quality_report.write(pd.read_csv(output.root / TABLE), step.limits, output)
        if outcome.complete and name == "rooms":
            rooms_report.write(pd.read_csv(output.root / ROOMS), output)
    counts = "".join(f"; {count} {what}" for what, count in sorted(outcome.counts.items()) if count)
    if not outcome.complete:
        log.info("this share is done; the last of the %d runs writes the tables of all of them", cfg.shard_count)
        return outcome.bad, "the log above"
    log.info("%s done, %d of no use%s: %s", counted(len(items), step.unit), len(outcome.bad), counts, output.root)
    return outcome.bad, str(output.root / FAILURES)


def output_settings(cfg: DictConfig, name: str) -> dict[str, object]:
    """Return {key of the command line: value} of everything that the output depends on."""
    source = cfg.input and str(expanded(cfg.input).resolve())
    settings = {"step": name, "input": source, "speaker": cfg.speaker, **flat(cfg.prepare, "prepare")}
    if name == "degrade":
        settings |= flat(cfg.data, "data")
    return {key: value for key, value in settings.items() if key not in WITHOUT_EFFECT}


def flat(config: DictConfig, prefix: str) -> dict[str, object]:
    """Return the configuration with dotted keys, e.g. {"prepare.sample_rate": 16000}."""
    values = {}
    for key in config:
        value = config[key]
        if isinstance(value, DictConfig):
            values |= flat(value, f"{prefix}.{key}")
        else:
            values[f"{prefix}.{key}"] = OmegaConf.to_container(value) if isinstance(value, ListConfig) else value
    return values


def write_manifest(cfg: DictConfig) -> tuple[list[BadFile], str]:
    """Carry out the step `manifest`. Return the bad files, and where they are listed."""
    if cfg.shard_count > 1:
        raise UserError("prepare=manifest is work for one machine: leave out shard_count")
    source = expanded(cfg.input)
    if cfg.output is None and source.is_file():
        raise UserError(f"input={cfg.input} is no folder, so say where the manifest is to be: output=FILE.arrow")
    file = expanded(cfg.output) if cfg.output else source / FILE
    files, _, bad = open_input(cfg, anew=True)
    build(cfg.prepare, files=files, file=file, cache_dir=cfg.cache_dir)
    hours = files.column("seconds").sum() / 3600
    log.info("%s, %.2f h, %d of no use: %s", counted(len(files), "file"), hours, len(bad), file)
    return bad, str(file.with_name(FAILURES))
