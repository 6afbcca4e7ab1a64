"""task=serve: a page in the browser plays recordings, or yourself, before and after exported models."""

from __future__ import annotations

import logging
import threading
import webbrowser
from pathlib import Path

from omegaconf import DictConfig, ListConfig

from gtcrn.errors import UserError
from gtcrn.export import formats, proof
from gtcrn.export.exporting import Export
from gtcrn.export.metadata import weights_of
from gtcrn.files import expanded
from gtcrn.models.pretrained import open_checkpoint
from gtcrn.reports.runs import choices_of
from gtcrn.runtime.denoiser import SUFFIXES
from gtcrn.tasks.building import configure_torch, trusted
from gtcrn.web import serving
from gtcrn.weights import resolve

log = logging.getLogger(__name__)


def run(cfg: DictConfig) -> None:
    if cfg.port >= 2**16:
        raise UserError(f"port={cfg.port}: must be a whole number from 0, any free one, to 65535")
    paths = cfg.models if isinstance(cfg.models, ListConfig) else [cfg.models]
    folder = Path(cfg.run_dir)
    models = serving.find([wave_file(cfg, str(path), folder / f"model_{n}") for n, path in enumerate(paths, 1)])
    serving.install()
    with serving.Server(models, cfg.port, cfg.attenuation_limit_db) as server:
        log.info("%s shows %s; Ctrl-C ends it", server.url, ", ".join(model["name"] for model in models))
        if cfg.browser:  # in a thread, because some browsers return only when they are closed
            threading.Thread(target=webbrowser.open, args=(server.url,), daemon=True).start()
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            log.info("ended")


def wave_file(cfg: DictConfig, given: str, folder: Path) -> Path:
    """Return the wave file, or the folder of some, that a word of `models=` stands for.

    A checkpoint, by name or as a file, is exported into the folder. Raises UserError if that can't be done.
    """
    path = expanded(resolve(given))
    if not path.is_file() or path.suffix.lower() in SUFFIXES:
        return path
    configure_torch(cfg)
    checkpoint = open_checkpoint(path, trusted(cfg))
    enhancer = checkpoint.enhancer()
    log.info("%s: exporting it for the page", given)
    try:
        kind = formats.choose_kind(enhancer, "onnx_wave")
    except UserError as error:
        raise UserError(f"models={given}: {error}") from error
    recording = proof.recording(None, enhancer.sample_rate)
    weights = weights_of(checkpoint, choices_of(path))
    return Export(enhancer, "onnx_wave", kind, Path(given).stem, weights, recording).write(folder).path
