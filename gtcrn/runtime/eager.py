"""The adapter that makes an enhancer in PyTorch a stream of numpy arrays."""

from __future__ import annotations

import numpy as np
import torch

from gtcrn.models.enhancer import Enhancer
from gtcrn.runtime.framing import Stream


class EnhancerStep:
    """A step of any number of whole hops through an enhancer: (B, N) -> (B, N) float32.

    streams: B, the number of independent streams. state: the enhancer's state of all of them.
    Raises `UserError` naming the layer if the enhancer looks ahead.
    """

    def __init__(self, enhancer: Enhancer, streams: int = 1):
        self.enhancer, self.streams = enhancer.eval(), streams
        self.reset()

    def reset(self) -> None:
        self.state = self.enhancer.initial_state(self.streams)

    @torch.inference_mode()
    def __call__(self, x: np.ndarray) -> np.ndarray:
        wave = torch.from_numpy(np.ascontiguousarray(x)).to(next(self.enhancer.parameters()).device)
        enhanced, self.state = self.enhancer(wave, self.state)
        return enhanced.cpu().numpy()


def open_stream(
    enhancer: Enhancer, block_length: int | None = None, attenuation_limit_db: float | None = None
) -> Stream:
    """Return a new `Stream` of one channel through an enhancer. Raises `UserError` if it looks ahead."""
    sizes = enhancer.sample_rate, enhancer.hop_length, enhancer.latency
    return Stream(EnhancerStep(enhancer), *sizes, block_length, attenuation_limit_db)
