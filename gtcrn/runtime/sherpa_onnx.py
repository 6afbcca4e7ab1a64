"""Files for sherpa-onnx (k2-fsa) as streams, through its own online denoiser."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from gtcrn.errors import UserError


class SherpaDenoiser:
    """A file as a stream through sherpa-onnx's online denoiser: its output is late by the first hop, which it does
    not give. Raises UserError without the package.
    """

    latency = 0

    def __init__(self, path: Path):
        self._denoiser = online_denoiser(path)
        self.sample_rate = self._denoiser.sample_rate
        self.hop_length = self._denoiser.frame_shift_in_samples

    def process(self, samples: np.ndarray) -> np.ndarray:
        """(N,) -> (N',) float32, N' as many as are ready."""
        return np.array(self._denoiser.run(samples, self.sample_rate).samples, np.float32)

    def reset(self) -> None:
        self._denoiser.reset()


def online_denoiser(path: Path):
    try:
        import sherpa_onnx
    except ImportError as error:
        raise UserError(
            f"{path.name}: is proved by sherpa-onnx itself, which is not installed: pip install -e '.[sherpa]'"
        ) from error
    model = sherpa_onnx.OfflineSpeechDenoiserModelConfig(
        gtcrn=sherpa_onnx.OfflineSpeechDenoiserGtcrnModelConfig(str(path))
    )
    return sherpa_onnx.OnlineSpeechDenoiser(sherpa_onnx.OnlineSpeechDenoiserConfig(model))
