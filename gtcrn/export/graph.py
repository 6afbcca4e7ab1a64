"""One step of a model with its states flat and named, as a file of every format holds it."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from gtcrn.models.enhancer import Enhancer, SpectralEnhancer
from gtcrn.runtime.facts import SPECTRUM, WAVE, Integers
from gtcrn.streaming import flatten
from gtcrn.streaming.state import State


class Graph(nn.Module):
    """One hop of one stream: forward(x, *states) -> (y, *next_states), all of fixed shapes.

    kind: `spectrum`, x and y (1, F, 1, 2), real and imaginary parts, for spectral enhancers alone; or `wave`,
        x and y (1, hop_length) samples, with the framing inside.
    states: their names, `state.encoder.2.conv` and the like, and their first values, zeros.
    integers: what a file of this graph says of the integers in it; None, since this one is of floats.

    Raises `UserError` naming the layer if the enhancer looks ahead.
    """

    def __init__(self, enhancer: Enhancer, kind: str):
        super().__init__()
        self.enhancer = enhancer.eval()
        self.kind = kind
        step = enhancer.core if kind == SPECTRUM else enhancer
        self._template = step.initial_state(1)
        # an empty state is no input of a graph; copies, since an exporter takes two states that share a tensor for one
        self.states = {name: state.clone() for name, state in flatten(self._template).items() if state.numel()}
        self.integers: Integers | None = None

    @property
    def input_names(self) -> list[str]:
        return ["input", *self.states]

    @property
    def output_names(self) -> list[str]:
        return ["output", *(f"next_{name}" for name in self.states)]

    def example(self) -> tuple[Tensor, ...]:
        """Return zeros of the shapes that forward takes."""
        some = next(iter(self.enhancer.parameters()))
        bins = self.enhancer.window_length // 2 + 1
        shape = (1, bins, 1, 2) if self.kind == SPECTRUM else (1, self.enhancer.hop_length)
        return some.new_zeros(shape), *self.states.values()

    def forward(self, x: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        state = _filled(self._template, iter(states))
        if self.kind == SPECTRUM:
            # without the axis of time, since onnxruntime transposes two axes three times as fast as four
            spec, state = self.enhancer.core(x.squeeze(2).transpose(1, 2).unsqueeze(2), state)  # (1, 2, 1, F)
            y = spec.squeeze(2).transpose(1, 2).unsqueeze(2)
        else:
            y, state = self.enhancer(x, state)
        return y, *(part for part in flatten(state).values() if part.numel())


def kinds(enhancer: Enhancer) -> tuple[str, ...]:
    """Return the kinds of graph that this enhancer has: of samples, and of spectra if it works on them."""
    return (SPECTRUM, WAVE) if isinstance(enhancer, SpectralEnhancer) else (WAVE,)


def _filled(template: State, states: Iterator[Tensor]) -> State:
    """Return the template with its tensors replaced in order, but for empty ones."""
    return {
        name: _filled(value, states) if isinstance(value, dict) else next(states) if value.numel() else value
        for name, value in template.items()
    }
