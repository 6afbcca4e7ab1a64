"""task=export: a model as a file for another runtime, proved in that runtime."""

from __future__ import annotations

import logging
from pathlib import Path

from omegaconf import DictConfig

from gtcrn.errors import Interrupted, UserError
from gtcrn.export import card, formats, proof
from gtcrn.export.metadata import weights_of
from gtcrn.models.pretrained import open_checkpoint
from gtcrn.tasks.building import configure_torch, load_or_build, require

log = logging.getLogger(__name__)


def run(cfg: DictConfig) -> None:
    configure_torch(cfg)
    require(cfg, "ckpt")
    enhancer = load_or_build(cfg)
    try:
        formats.choose_kind(enhancer, cfg.format)
    except UserError as error:
        raise UserError(f"ckpt={cfg.ckpt}: {error}") from error
    recording = proof.recording(cfg.audio, enhancer.sample_rate)
    checkpoint = open_checkpoint(cfg.ckpt)
    weights = weights_of(checkpoint)
    scores = card.scores_of(checkpoint.path, weights.scores)
    weights = weights._replace(**{key: str(cfg[key]) for key in ("licence", "origin") if cfg[key]})
    stem = str(cfg.name or checkpoint.build.__module__.rpartition(".")[2])
    if Path(stem).name != stem:
        raise UserError(f"name={stem}: a file's name, without folders; these go into output=")
    folder = Path(cfg.output or cfg.run_dir)
    try:
        exported = formats.export(enhancer, cfg.format, folder, stem, weights, scores, recording)
    except KeyboardInterrupt:
        raise Interrupted("interrupted; nothing was written") from None
    tell(exported)


def tell(exported: formats.Exported) -> None:
    metadata, proved = exported.metadata, exported.proof
    rate, hop, latency = (int(metadata[key]) for key in ("sample_rate", "hop_length", "latency"))
    log.info("\n%s", exported.path)
    for what, value in (
        ("size", f"{exported.size / 1000:,.0f} kB"),
        ("largest difference", f"{proved.error:.1e} over {proved.frames} frames, of {proof.TOLERANCE:g} allowed"),
        ("CPU time for a hop", f"median {proved.median_ms:.2f} ms, 95 % below {proved.p95_ms:.2f} ms, on one thread"),
        ("latency", f"{1e3 * (hop + latency) / rate:g} ms, a hop of {1e3 * hop / rate:g} ms included"),
        ("licence", metadata["licence"]),
        ("how to call it", exported.card),
    ):
        log.info("  %-18s %s", what, value)
