"""GTCRN and its family: research on tiny real-time speech enhancement.

enhancer = gtcrn.load("gtcrn-dns3")        # published weights by name, or a checkpoint file
enhanced, state = enhancer(wave)           # (B, N) float32 at enhancer.sample_rate
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gtcrn.models.pretrained import load

__all__ = ["load"]


def __getattr__(name: str) -> object:
    # lazily, so that `gtcrn --help` need not import torch
    if name == "load":
        from gtcrn.models.pretrained import load

        return load
    raise AttributeError(f"module 'gtcrn' has no attribute {name!r}")
