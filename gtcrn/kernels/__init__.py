"""Layers that kernels of this framework's own compute on a CPU, faster than PyTorch's operators do.

They have the parameters of PyTorch's layers, and what they compute is defined by those.
"""

from gtcrn.kernels.choice import CHOICES, chosen, use
from gtcrn.kernels.gru import GRU
from gtcrn.kernels.norm import normalised

__all__ = ["CHOICES", "GRU", "chosen", "normalised", "use"]
