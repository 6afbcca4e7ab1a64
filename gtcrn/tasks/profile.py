"""task=profile: what a model costs, how fast it trains and its data comes, and what exported files take."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from math import isnan
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from hydra import compose
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from pandas import DataFrame
from rich.console import Console

from gtcrn.data.datasets import MixedDataset, PairedDataset
from gtcrn.errors import Interrupted, UserError
from gtcrn.export import formats, proof
from gtcrn.export.exporting import Calibrated, Export
from gtcrn.export.metadata import weights_of
from gtcrn.files import write_text
from gtcrn.models.enhancer import Enhancer
from gtcrn.models.pretrained import open_checkpoint
from gtcrn.plots.tables import rich_table
from gtcrn.profiling import (
    complexity,
    latency,
    latency_report,
    mcu,
    quantization,
    quantization_report,
    training,
    training_report,
)
from gtcrn.profiling.cost import EXACT, THOP, measure
from gtcrn.profiling.throughput import measure_loader, measure_table, measure_throughput
from gtcrn.quantization import calibration
from gtcrn.quantization.checkpoint import trained_network
from gtcrn.quantization.network import Network
from gtcrn.reports.runs import choices_of
from gtcrn.runtime.facts import BANDS
from gtcrn.runtime.runners import open_runner
from gtcrn.tasks.building import build, build_enhancer, configure_torch, load_checkpoint, load_or_build, trusted
from gtcrn.tasks.keys import Bound, Core, Count, Positive

log = logging.getLogger(__name__)

# (name, format, kind, integers=None, stem="model") -> an exported file
WriteVariant = Callable[..., quantization.Variant]

NOTES = f"""{EXACT}
{THOP}
GTCRN's published 33.0 MMACs/s come out of ptflops 0.7 alone (0.7.5 gives 31.97),
GTCRN-Micro's 45.92 out of ptflops 0.7.5 on its authors' code (exact 38.739)."""

WIDTHS = "channels", "width_mult"  # the key of a model, if it has one, that makes it wider
ROW_KEYS = {"overrides", "published_parameters", "published_macs", "note"}

LEAST_REAL_TIME = {MixedDataset: 150, PairedDataset: 600}
MOST_SECONDS, MOST_MEGABYTES = 3, 500
DATA_NOTES = """× real time: seconds of noisy audio per second; the target is for 4 s at 16 kHz, 30 % of them in a room.
Decoding alone: plain soundfile on the same parts of the same files, without resampling, measured in turn.
Memory: RSS / PSS / USS, by which the process is larger than with a corpus of 1000 files."""


def run(cfg: DictConfig) -> None:
    choice = HydraConfig.get().runtime.choices["profile"]
    profile = build(cfg.profile)
    if "rows" in cfg.model and choice not in ("model", "training"):
        raise UserError("model=all is for profile=model and profile=training: name one model, e.g. model=light_v3")
    if "rows" in cfg.model and choice == "model":
        profile = profile_all
    configure_torch(cfg)
    console = Console()
    if not console.is_terminal:  # a file has no width
        console.width = 120
    folder = Path(cfg.run_dir)
    folder.mkdir(parents=True, exist_ok=True)
    measured = profile(cfg, console)
    path = folder / ("latency.json" if choice == "latency" else "profile.json")
    write_text(path, json.dumps(measured, indent=2))
    log.info("written: %s", path)


def profile_all(cfg: DictConfig, console: Console) -> dict:
    """Measure the models of conf/model/all.yaml, print and write their table."""
    if cfg.ckpt:
        raise UserError(f"ckpt={cfg.ckpt}: model=all measures models without weights; leave one of them out")
    configurations = {name: _row_model(name, row) for name, row in cfg.model.rows.items()}
    rows = []
    for name, model in configurations.items():
        log.info("measuring %s", name)
        row = OmegaConf.to_container(cfg.model.rows[name])
        del row["overrides"]
        rows.append(complexity.ModelCost(name, measure(build_enhancer(model)), **row))
    for table in complexity.terminal(rows):
        console.print(table)
    for path in complexity.write(rows, Path(cfg.run_dir)):
        log.info("written: %s", path)
    return {row.name: asdict(row.cost) for row in rows}


def _row_model(name: str, row: DictConfig) -> DictConfig:
    """Return the configuration of the model that the overrides of a row name. Raises UserError for a faulty row."""
    keys = set(row) if OmegaConf.is_dict(row) else set()
    if "overrides" not in keys or not keys <= ROW_KEYS:
        raise UserError(
            f"model.rows.{name}: needs overrides, and may have {', '.join(sorted(ROW_KEYS - {'overrides'}))}"
        )
    overrides = str(row.overrides).split()
    for override in overrides:
        if override.lstrip("+~").partition("=")[0].partition(".")[0] not in ("model", "streaming"):
            raise UserError(f"model.rows.{name}: {override}: only model and streaming can be overridden here")
    try:
        return compose("config", overrides).model
    except HydraException as error:
        raise UserError(f"model.rows.{name}: {str(error).splitlines()[0]}") from error


def profile_model(cfg: DictConfig, console: Console) -> dict:
    cost = measure(load_or_build(cfg))
    shares = [
        (name, f"{macs / 1e6:.3f}", f"{100 * macs / cost.macs_exact:.1f} %")
        for name, macs in cost.macs_by_module.items()
    ]
    console.print(rich_table("exact MACs by module", ("module", "MMACs/s", "share"), shares))
    totals = [
        ("parameters, trainable", f"{cost.parameters_trainable:,}"),
        ("parameters, with the fixed ERB matrices where authors count them", f"{cost.parameters_all:,}"),
        (f"MMACs/s, exact ({cost.frames} frames)", f"{cost.macs_exact / 1e6:.3f}"),
        ("MMACs/s, thop", f"{cost.macs_thop / 1e6:.3f}"),
    ]
    if cost.streams:
        totals += [
            ("state of one stream, KiB", f"{cost.state_bytes / 1024:.1f}"),
            ("activations of one hop, all of them, KiB", f"{cost.activation_bytes / 1024:.1f}"),
            ("activations of one hop, in use at one time, KiB", f"{cost.peak_bytes / 1024:.1f}"),
        ]
    console.print(rich_table("totals", ("quantity", "value"), totals))
    latency = [
        ("window", f"{cost.window_ms:.1f}"),
        ("hop", f"{cost.hop_ms:.1f}"),
        ("look-ahead of the network", f"{cost.lookahead_ms:.1f}"),
        ("hop + delay of the streamed output", f"{cost.latency_ms:.1f}"),
    ]
    if cost.streams:
        latency.append(("compute per hop, eager PyTorch, one thread, median CPU time", f"{cost.compute_ms:.2f}"))
    console.print(rich_table("latency budget", ("part", "ms"), latency))
    console.print(NOTES, highlight=False)
    return asdict(cost)


def profile_data(cfg: DictConfig, console: Console, manifest_rows: Annotated[int, Bound(1000)]) -> dict:
    data = build(cfg.data)
    begin = time.perf_counter()
    data.setup(("train",))
    setup_seconds = time.perf_counter() - begin
    for line in data.describe():
        log.info(line)
    dataset = data.dataset("train")
    alone, loader = measure_throughput(dataset, data.sample_rate), measure_loader(data)
    comparable = (data.sample_rate, data.segment_seconds) == (16000, 4)
    target = LEAST_REAL_TIME.get(type(dataset)) if comparable else None
    items = [
        ("set-up: finding and checking the files", f"{setup_seconds:.2f} s", ""),
        ("one process: × real time", f"{alone.real_time:.0f}", _against(alone.real_time, "≥", target)),
        ("  items per second", f"{alone.items_per_second:.0f}", ""),
        ("  of the time, reading and resampling", f"{100 * alone.decoding:.0f} %", ""),
        ("  of the time, mixing", f"{100 * alone.mixing:.0f} %", ""),
        ("  times as long as decoding alone", f"{alone.over_decoding:.2f}", ""),
        (f"loader with num_workers={data.num_workers}: × real time", f"{loader.real_time:.0f}", ""),
        ("  items per second", f"{loader.items_per_second:.0f}", ""),
        ("  until the first batch", f"{loader.first_batch:.2f} s", ""),
    ]
    console.print(rich_table("training items", ("quantity", "value", "target"), items))
    log.info("opening a made-up corpus, which takes up to a minute …")
    table = measure_table(manifest_rows)
    seconds = _against(table.open_seconds, "≤", MOST_SECONDS)
    opening = [("from its path to the first item", f"{table.open_seconds:.2f} s", seconds)]
    for name, memory in (("the training process", table.main), ("a loader worker", table.worker)):
        megabytes = " / ".join(f"{value:.0f}" for value in memory.values())
        opening.append((f"memory of {name}, MB", megabytes, _against(memory["rss"], "≤", MOST_MEGABYTES)))
    console.print(rich_table(f"a made-up corpus of {table.rows:,} files", ("quantity", "value", "target"), opening))
    console.print(DATA_NOTES, highlight=False)
    return {"setup_seconds": setup_seconds, "process": asdict(alone), "loader": asdict(loader), "table": asdict(table)}


def _against(value: float, sign: str, target: float | None) -> str:
    """Return the target and whether the value meets it, e.g. `≥ 150, met`; "" if there is no target."""
    if target is None or isnan(value):
        return ""
    met = value >= target if sign == "≥" else value <= target
    return f"{sign} {target}, {'met' if met else 'missed'}"


def profile_training(
    cfg: DictConfig,
    console: Console,
    forms: list[Literal["plain", "torch", "numba"]],
    threads: list[Count],
    batch: list[Count],
    seconds: list[Annotated[float, Bound(0.1)]],
    width: list[Positive],
    rounds: Count,
    rows: list[str] | None,
) -> dict:
    """Time steps of training of the model, or of rows of model=all; nothing is written before all are finished."""
    if cfg.ckpt:
        raise UserError(f"ckpt={cfg.ckpt}: profile=training needs no weights, only model=; leave it out")
    lists = {"threads": threads, "batch": batch, "seconds": seconds, "width": width}
    for key, values in {"forms": forms, "rows": rows, **lists}.items():
        if values == []:
            raise UserError(f"profile.{key}=[]: give at least one")
    if "rows" in cfg.model:
        names = list(cfg.model.rows) if rows is None else rows
        if unknown := set(names) - set(cfg.model.rows):
            raise UserError(f"profile.rows: {min(unknown)} is none of model=all's: {', '.join(cfg.model.rows)}")
        models = {name: _row_model(name, cfg.model.rows[name]) for name in names}
    else:
        models = {HydraConfig.get().runtime.choices["model"]: cfg.model}
    settings = {}
    for name, model in models.items():
        key = next((key for key in WIDTHS if isinstance(model.get(key), int | float)), None)
        for values in _one_by_one(lists if key else lists | {"width": [1]}):
            wider = OmegaConf.create(OmegaConf.to_container(model, resolve=True))
            if key:
                wider[key] = type(wider[key])(values["width"] * wider[key])
            make = settings[training.Setting(name, **values)] = partial(build_enhancer, wider)
            make()  # refuses what is out of range before anything is timed
    try:
        measured = training.measure(settings, list(dict.fromkeys(forms)), build(cfg.loss), build(cfg.optimizer), rounds)
    except KeyboardInterrupt as stop:
        message = "interrupted: nothing is written; a smaller profile.rounds= takes less time"
        raise Interrupted.by(stop, message) from None
    console.print(*training_report.terminal(measured), *training_report.NOTES, sep="\n", highlight=False)
    for path in training_report.write(measured, Path(cfg.run_dir)):
        log.info("written: %s", path)
    return {name: json.loads(part.to_json(orient="records")) for name, part in measured._asdict().items()}


def _one_by_one(lists: dict[str, list]) -> list[dict]:
    """Return the first values of all lists together, and then each further value with the first of the others."""
    first = {key: values[0] for key, values in lists.items()}
    return [first, *(first | {key: value} for key, values in lists.items() for value in values[1:])]


def profile_latency(
    cfg: DictConfig,
    console: Console,
    files: str | list[str] | None,
    reference: str | list[str] | None,
    seconds: Positive,
    pairs: str | None,
) -> dict:
    """Measure files and PyTorch side by side; nothing is written before all are finished."""
    if not _paths(files):
        raise UserError(
            "profile=latency needs profile.files=…: exported files or a folder of them, e.g. "
            "profile.files=[a.onnx,b.tflite]"
        )
    try:
        timings, scores = _compared(cfg, _paths(files), _paths(reference), seconds, pairs)
    except KeyboardInterrupt as stop:
        message = "interrupted: nothing is written; a smaller profile.seconds= takes less time"
        raise Interrupted.by(stop, message) from None
    notes = latency_report.notes(timings)
    console.print(*latency_report.terminal(timings, scores), *notes, sep="\n", highlight=False)
    for path in latency_report.write(timings, scores, Path(cfg.run_dir)):
        log.info("written: %s", path)
    return {
        "timings": json.loads(latency_report.frame(timings).to_json(orient="records")),
        "scores": None if scores is None else json.loads(scores.to_json(orient="index")),
        "notes": notes,
    }


def _compared(
    cfg: DictConfig, files: list[Path], reference: list[Path], seconds: float, pairs: str | None
) -> tuple[list[latency.Timing], DataFrame | None]:
    candidates = latency.find_candidates(files, reference, load_or_build(cfg) if cfg.ckpt else None)
    sample_rate = candidates[0].runner.sample_rate
    if not pairs:
        return latency.measure(latency.timed_calls(candidates, latency.noise(sample_rate)), seconds), None
    waves = latency.read_pairs(Path(pairs), sample_rate)
    scores = latency.quality(candidates, waves, cfg.metrics.workers)
    noisy = np.concatenate([noisy for noisy, _ in waves.values()])
    return latency.measure(latency.timed_calls(candidates, noisy), seconds), scores


def profile_mcu(
    cfg: DictConfig,
    console: Console,
    files: str | list[str] | None,
    cores: list[Core],
    clock_mhz: dict[str, Positive],
    flags: list[str],
) -> dict:
    """Run C files on emulated cores; nothing is written before all are finished."""
    if not _paths(files):
        raise UserError(
            "profile=mcu needs profile.files=…: those of task=export format=c, e.g. "
            "profile.files=[denoise_int8_c/denoise_int8.c]"
        )
    if not cores:
        raise UserError("profile.cores=[]: give at least one")
    if missing := [core for core in cores if core not in clock_mhz]:
        raise UserError(f"profile.clock_mhz.{missing[0]}: is missing, for the milliseconds")
    try:
        table = mcu.measure(mcu.find_sources(_paths(files)), list(dict.fromkeys(cores)), clock_mhz, flags)
    except KeyboardInterrupt as stop:
        raise Interrupted.by(stop, "interrupted: nothing is written") from None
    console.print(*mcu.terminal(table), *mcu.NOTES, sep="\n", highlight=False)
    for path in mcu.write(table, flags, Path(cfg.run_dir)):
        log.info("written: %s", path)
    return {"flags": list(flags), "rows": json.loads(table.to_json(orient="records"))}


def profile_quantization(
    cfg: DictConfig,
    console: Console,
    pairs: str | None,
    quantize: str | list[str] | None,
    calibration: str | None,
    trained: str | list[str] | None,
    files: str | list[str] | None,
) -> dict:
    """Compare a float model with its integers, without training and trained, and with other files."""
    for key, value, what in (
        ("ckpt", cfg.ckpt, "the float model"),
        ("profile.pairs", pairs, "a folder with noisy/ and clean/"),
    ):
        if not value:
            raise UserError(f"profile=quantization needs {key}=…: {what}")
    opened, enhancer = load_checkpoint(cfg)
    weights = weights_of(opened, choices_of(opened.path))
    recording = proof.recording(None, enhancer.sample_rate)

    def write_variant(
        name: str, format: str, kind: str, integers: Network | Calibrated | None = None, stem: str = "model"
    ):
        """Export the model beside the report."""
        export = Export(enhancer, format, kind, stem, weights, recording, integers=integers)
        return quantization.Variant(name, export.write(Path(cfg.run_dir)).path, integers)

    waves = latency.read_pairs(Path(pairs), enhancer.sample_rate)
    others = _integer_files(cfg, enhancer, _paths(files))
    try:
        variants = _untrained(enhancer, _list(quantize), calibration, write_variant)
        variants += _trained(cfg, enhancer, _paths(trained), write_variant) + others
        if not variants:
            raise UserError(
                "profile=quantization needs something to compare: profile.quantize=, profile.trained= or profile.files="
            )
        report = quantization.measure(enhancer, variants, waves, cfg.metrics.workers)
    except KeyboardInterrupt as stop:
        raise Interrupted.by(stop, "interrupted: the report is not written") from None
    console.print(*quantization_report.terminal(report), *quantization_report.NOTES, sep="\n", highlight=False)
    for path in quantization_report.write(report, Path(cfg.run_dir)):
        log.info("written: %s", path)
    return {name: json.loads(part.to_json(orient="index")) for name, part in report._asdict().items()}


def _untrained(
    enhancer: Enhancer, quantize: list[str], folder: str | None, write_variant: WriteVariant
) -> list[quantization.Variant]:
    """Return the variants of `profile.quantize=`, and the float files that quantizers make them from.

    folder: recordings to calibrate by.
    """
    wanted = []
    for name in dict.fromkeys(str(entry).removeprefix("litert:") for entry in quantize):
        format, _, integers = name.rpartition(":")
        format = format or "litert"
        wanted.append((name, format, integers, formats.choose_kind(enhancer, format, integers)))
    if any(integers != formats.DYNAMIC for _, _, integers, _ in wanted) and not folder:
        raise UserError(
            "profile=quantization needs profile.calibration=FOLDER, noisy recordings as the device will hear them; or "
            "profile.quantize=[] and profile.trained=[…], checkpoints of training=qat"
        )
    noisy = calibration.read_recordings(folder, enhancer.sample_rate) if folder else None
    variants, floats = [], {}
    for name, format, integers, kind in wanted:
        waves = noisy.waves if noisy else []
        if kind == BANDS:
            log.info("%s: choosing ranges by %s, which takes up to a minute …", name, noisy.name)
            variants.append(write_variant(name, format, kind, calibration.quantize_enhancer(enhancer, integers, waves)))
            continue
        if format not in floats:
            floats[format] = write_variant(f"{format}:float", format, kind)
            variants.append(floats[format])
        variants.append(write_variant(name, format, kind, Calibrated(integers, waves, floats[format].path)))
    return variants


def _trained(
    cfg: DictConfig, enhancer: Enhancer, paths: list[Path], write_variant: WriteVariant
) -> list[quantization.Variant]:
    """Export the checkpoints of `profile.trained=` and return their variants."""
    variants = []
    for name, path in zip(latency.short_names(paths), paths):
        checkpoint = open_checkpoint(path, trusted(cfg))
        held = checkpoint.enhancer()
        network = trained_network(checkpoint, held)
        if _shapes(held) != _shapes(enhancer):
            raise UserError(
                f"profile.trained={path}: did not begin with the model of ckpt={cfg.ckpt}, which has other sizes"
            )
        stem = f"trained_{name}".replace("/", "_")
        variants.append(write_variant(f"trained {name}", "litert", BANDS, network, stem))
    return variants


def _shapes(enhancer: Enhancer) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in enhancer.state_dict().items()}


def _integer_files(cfg: DictConfig, enhancer: Enhancer, files: list[Path]) -> list[quantization.Variant]:
    """Return the variants of `profile.files=`, each checked before anything takes long."""
    files = list(dict.fromkeys(files))
    for path in files:
        quantization.work(path)
        if (rate := open_runner(path).sample_rate) != enhancer.sample_rate:
            raise UserError(f"profile.files={path}: {rate} Hz, but ckpt={cfg.ckpt} has {enhancer.sample_rate} Hz")
    return [quantization.Variant(name, path) for name, path in zip(latency.short_names(files), files)]


def _list(value: str | list[str] | None) -> list[str]:
    """Return one string, several, or None as a list."""
    return [value] if isinstance(value, str) else list(value or [])


def _paths(value: str | list[str] | None) -> list[Path]:
    return [Path(path) for path in _list(value)]
