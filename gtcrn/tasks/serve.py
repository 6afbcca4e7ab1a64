"""task=serve: a page in the browser plays recordings, or yourself, before and after exported models."""

from __future__ import annotations

import logging
import threading
import webbrowser

from omegaconf import DictConfig, ListConfig

from gtcrn.errors import UserError
from gtcrn.files import expanded
from gtcrn.runtime.denoiser import exported_file
from gtcrn.web import serving

log = logging.getLogger(__name__)


def run(cfg: DictConfig) -> None:
    if not cfg.models:
        raise UserError(
            "task=serve needs models=…, wave files of task=export format=onnx_wave or a folder of them: "
            "'models=[a.onnx,b.onnx]'"
        )
    if cfg.port >= 2**16:
        raise UserError(f"port={cfg.port}: must be a whole number from 0, any free one, to 65535")
    paths = cfg.models if isinstance(cfg.models, ListConfig) else [cfg.models]
    models = serving.find([expanded(exported_file(str(path))) for path in paths])
    serving.install()
    with serving.Server(models, cfg.port, cfg.attenuation_limit_db) as server:
        log.info("%s shows %s; Ctrl-C ends it", server.url, ", ".join(model["name"] for model in models))
        if cfg.browser:  # in a thread, because some browsers return only when they are closed
            threading.Thread(target=webbrowser.open, args=(server.url,), daemon=True).start()
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            log.info("ended")
