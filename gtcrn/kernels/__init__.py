"""Layers that kernels of this framework's own compute on a CPU, faster than PyTorch's operators do.

They have the parameters of PyTorch's layers, and what they compute is defined by those.
"""

from gtcrn.kernels.choice import CHOICES, chosen, use
from gtcrn.kernels.convolution import Conv2d, ConvTranspose2d, with_neighbours
from gtcrn.kernels.gru import GRU
from gtcrn.kernels.linear import LayerNorm, Linear
from gtcrn.kernels.norm import normalised

__all__ = [
    "CHOICES",
    "GRU",
    "Conv2d",
    "ConvTranspose2d",
    "LayerNorm",
    "Linear",
    "chosen",
    "normalised",
    "use",
    "with_neighbours",
]
