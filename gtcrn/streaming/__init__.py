"""Layers that take their past as an argument and return the next one.

Offline processing is streaming from a zero state: a whole utterance, a chunk of any length and a single frame are
processed by the same code, `y, next_state = layer(x, state)`.
"""

from gtcrn.streaming.layers import (
    CausalConv1d,
    CausalConv2d,
    CausalConvTranspose1d,
    CausalConvTranspose2d,
    CausalGRU,
    CausalLSTM,
    TimeGRU,
)
from gtcrn.streaming.state import Stateful, flatten

__all__ = [
    "CausalConv1d",
    "CausalConv2d",
    "CausalConvTranspose1d",
    "CausalConvTranspose2d",
    "CausalGRU",
    "CausalLSTM",
    "Stateful",
    "TimeGRU",
    "flatten",
]
