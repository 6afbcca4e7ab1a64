"""Layers that kernels of this framework's own compute on a CPU, several times faster than PyTorch's operators.

Each is a layer of PyTorch's, with its parameters, and what it computes is defined by that one.
"""

from gtcrn.kernels.choice import CHOICES, chosen, use
from gtcrn.kernels.gru import GRU

__all__ = ["CHOICES", "GRU", "chosen", "use"]
