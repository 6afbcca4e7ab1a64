"""Sequences of causal blocks that several models share; each block keeps its own part of the state."""

from __future__ import annotations

from torch import Tensor, nn

from gtcrn.streaming import Stateful
from gtcrn.streaming.state import State


class StreamingSequential(Stateful, nn.ModuleList):
    """Blocks that run one after the other, each with its own part of the state."""

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        next_state = {}
        for name, block in self.named_children():
            x, next_state[name] = block(x, state[name])
        return x, next_state


class Encoder(Stateful, nn.ModuleList):
    """Blocks that run one after the other and whose outputs are all kept for the decoder."""

    def forward(self, x: Tensor, state: State) -> tuple[list[Tensor], State]:
        outputs, next_state = [], {}
        for name, block in self.named_children():
            x, next_state[name] = block(x, state[name])
            outputs.append(x)
        return outputs, next_state


class Decoder(Stateful, nn.ModuleList):
    """The encoder's mirror image: every block adds the encoder output of the same size to its input."""

    def forward(self, x: Tensor, skips: list[Tensor], state: State) -> tuple[Tensor, State]:
        next_state = {}
        for (name, block), skip in zip(self.named_children(), reversed(skips), strict=True):
            x, next_state[name] = block(x + skip, state[name])
        return x, next_state
