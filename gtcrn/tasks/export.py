"""task=export: a model is written as a file for another runtime, and proved in that runtime."""

from __future__ import annotations

import logging
from pathlib import Path

from omegaconf import DictConfig

from gtcrn.errors import Interrupted, UserError
from gtcrn.export import card, formats, proof
from gtcrn.export.c.budget import Budget
from gtcrn.export.c.writer import require_identifier
from gtcrn.export.device.folder import write_device_files
from gtcrn.export.exporting import Calibrated, Export, Exported, in_float
from gtcrn.export.metadata import weights_of
from gtcrn.models.enhancer import Enhancer
from gtcrn.models.pretrained import Checkpoint
from gtcrn.quantization import calibration
from gtcrn.quantization.checkpoint import holds_integers, trained_network
from gtcrn.quantization.network import Network
from gtcrn.reports.runs import choices_of
from gtcrn.runtime.bare_metal.emulation import require_tools
from gtcrn.runtime.c_code import compiler
from gtcrn.runtime.facts import BANDS
from gtcrn.tasks.building import configure_torch, load_checkpoint

log = logging.getLogger(__name__)

TRAINED = "int8"  # the integers that training=qat learns
AUDIBLE = 20.0  # dB: below this output SNR the difference to the float model is audible
# {whether it is in integers alone: which quantizations come nearer to the float model}
NEARER = {
    True: "quantize=mixed or int16x8 of format=litert, or training=qat",
    False: "quantize=dynamic, or int16x8 of format=litert",
}


def run(cfg: DictConfig) -> None:
    configure_torch(cfg)
    checkpoint, enhancer = load_checkpoint(cfg)
    try:
        kind = formats.choose_kind(enhancer, cfg.format, cfg.quantize)
    except UserError as error:
        raise UserError(f"ckpt={cfg.ckpt}: {error}") from error
    require_integers(cfg, kind, holds_integers(checkpoint))
    recording = proof.recording(cfg.audio, enhancer.sample_rate)
    choices = choices_of(checkpoint.path)
    weights = weights_of(checkpoint, choices)
    scores = card.scores_of(checkpoint.path, weights.scores)
    weights = weights._replace(**{key: str(cfg[key]) for key in ("licence", "origin") if cfg[key]})
    stem = str(cfg.name or choices.get("model") or checkpoint.build.__module__.rpartition(".")[2])
    if Path(stem).name != stem:
        raise UserError(f"name={stem}: a file's name, without folders; these go into output=")
    if cfg.format == "c":
        require_identifier(stem)
        compiler()  # which the proof needs
    budget = budget_of(cfg)
    folder, file = destination(cfg)
    try:
        wanted = integers(cfg, checkpoint, enhancer, kind)
        export = Export(enhancer, cfg.format, kind, stem, weights, recording, scores, wanted, cfg.strict, budget)
        exported = export.write(folder, file)
    except KeyboardInterrupt as stop:
        raise Interrupted.by(stop, "interrupted; nothing was written") from None
    show(exported)
    if cfg.device_files:
        written = write_device_files(exported.path, exported.path.with_name(f"{exported.path.stem}_device"))
        log.info("  %-18s %s", "for a device", written[0].parent)


def budget_of(cfg: DictConfig) -> Budget | None:
    """Return the limits of flash and RAM, None without any. Raises UserError if they can't be measured."""
    limits = {key: cfg[key] for key in ("flash_kib", "ram_kib") if cfg[key] is not None}
    if not limits:
        return None
    if cfg.format != "c":
        key, value = next(iter(limits.items()))
        raise UserError(f"{key}={value}: is of format=c; leave it out")
    require_tools(cfg.core)
    return Budget(cfg.core, cfg.flash_kib, cfg.ram_kib)


def destination(cfg: DictConfig) -> tuple[Path, str | None]:
    """Return the folder of `output=` and the file's name, None where it is not given and the model's name makes one.

    Raises UserError if the name ends as the files of other formats do, or if `name=` is given too.
    """
    output = Path(cfg.output or cfg.run_dir)
    endings = {name: Path(f"x{format.suffix}").suffix for name, format in formats.FORMATS.items()}
    suffix = output.suffix.lower()
    if not suffix or suffix not in endings.values():
        return output, None
    if suffix != endings[cfg.format]:
        able = ", ".join(f"format={name}" for name, ending in endings.items() if ending == suffix)
        raise UserError(
            f"output={cfg.output}: files of format={cfg.format} do not end so; name a folder, or take {able}"
        )
    if cfg.name:
        raise UserError(f"name={cfg.name}: output={cfg.output} names the file already; leave one of them out")
    return output.parent, output.name


def require_integers(cfg: DictConfig, kind: str, trained: bool) -> None:
    """Raise `UserError` if the keys of quantization contradict one another or the checkpoint.

    trained: whether the checkpoint holds integers.
    """
    learnt = trained and kind == BANDS and cfg.quantize == TRAINED
    if trained and not learnt:
        log.warning("ckpt=%s holds integers, see format=litert quantize=int8; this is of its float model", cfg.ckpt)
    if cfg.quantize is None:
        for key in ("calibration", "strict", "device_files"):
            if cfg[key]:
                raise UserError(f"{key}={cfg[key]}: is of integers; add quantize=, or leave it out")
        return
    if cfg.device_files and (kind != BANDS or cfg.format != "litert"):
        raise UserError("device_files=true: is for GTCRN-Micro, format=litert quantize=int8, mixed or int16x8")
    unneeded = ""
    if learnt:
        unneeded = f"ckpt={cfg.ckpt} has learnt its ranges"
    elif cfg.quantize == formats.DYNAMIC:
        unneeded = "the ranges of quantize=dynamic follow the signal"
    if unneeded and cfg.calibration:
        raise UserError(f"calibration={cfg.calibration}: {unneeded}; leave it out")
    if not unneeded and not cfg.calibration:
        raise UserError(
            f"quantize={cfg.quantize} needs calibration=FOLDER, noisy recordings as the device will hear them"
        )


def integers(cfg: DictConfig, checkpoint: Checkpoint, enhancer: Enhancer, kind: str) -> Network | Calibrated | None:
    """Return the integer network, learnt by the checkpoint or calibrated, or what an exporter calibrates it by.

    Returns None if no integers are asked for.
    """
    if cfg.quantize is None:
        return None
    if not cfg.calibration:
        if cfg.quantize == formats.DYNAMIC:
            return Calibrated(cfg.quantize)
        return trained_network(checkpoint, enhancer)
    noisy = calibration.read_recordings(cfg.calibration, enhancer.sample_rate)
    log.info("0/3 choosing ranges by %s, which takes up to a minute …", noisy.name)
    if kind == BANDS:
        return calibration.quantize_enhancer(enhancer, cfg.quantize, noisy.waves)
    return Calibrated(cfg.quantize, noisy.waves)


def show(exported: Exported) -> None:
    """Print what was exported, how near it is to the model and how fast, and warn if integers are far off."""
    facts, proved = exported.facts, exported.proof
    signal, integers = facts.signal, facts.integers
    log.info("\n%s", exported.path)
    for what, value in (
        ("size", f"{exported.size / 1000:,.0f} kB"),
        *judgement(exported),
        ("CPU time for a hop", f"median {proved.median_ms:.2f} ms, 95 % below {proved.p95_ms:.2f} ms, on one thread"),
        ("latency", f"{signal.total_ms:g} ms, a hop of {signal.hop_ms:g} ms included"),
        ("licence", facts.licence),
        ("how to call it", exported.card),
    ):
        log.info("  %-18s %s", what, value)
    if integers and proved.snr < AUDIBLE:
        log.warning(
            "an output SNR below %g dB is audible: calibrate with noisy speech as the device will hear it, levels and "
            "noises too; or take %s",
            AUDIBLE,
            NEARER[not integers.left],
        )
    if integers and integers.left:
        log.warning("%s; strict=true refuses that", in_float(integers.share, integers.left))


def judgement(exported: Exported) -> list[tuple[str, str]]:
    """Return how near the file is to the PyTorch model and, if it holds integers, how much of it they do, in words."""
    integers, proved = exported.facts.integers, exported.proof
    if integers is None:
        return [
            ("largest difference", f"{proved.error:.1e} over {proved.frames} frames, of {proof.TOLERANCE:g} allowed")
        ]
    words = [("output SNR", f"{integers.snr:.1f} dB against the float model, over {proved.frames} frames")]
    words.append(("integers", card.integers_in_words(integers)))
    return words + ([("check", integers.check)] if integers.check else [])
