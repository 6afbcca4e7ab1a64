"""Files for sherpa-onnx (k2-fsa) as streams through its own online denoiser."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from gtcrn.errors import UserError


class SherpaDenoiser:
    """A stream through sherpa-onnx's online denoiser, which omits the first hop of its output.

    Raises UserError without the package.
    """

    latency = 0

    def __init__(self, path: Path):
        self._denoiser = online_denoiser(path)
        self.sample_rate = self._denoiser.sample_rate
        self.hop_length = self._denoiser.frame_shift_in_samples

    def process(self, samples: np.ndarray) -> np.ndarray:
        """Enhance the next (N,) samples and return the (N',) float32 that are ready."""
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
