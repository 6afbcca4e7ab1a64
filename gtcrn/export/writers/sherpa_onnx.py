"""Files for sherpa-onnx's GTCRN denoisers (k2-fsa): spectral models with their states in three tensors.

The output of its online denoiser is that of a stream here, without the delay and as long as its input. That of its
offline denoiser is that of whole utterances here with padding=reflect, but for the last incomplete hop.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor

from gtcrn.errors import UserError
from gtcrn.export.graph import Graph
from gtcrn.export.writers import onnx
from gtcrn.models.enhancer import Enhancer

CACHES = ("conv_cache", "tra_cache", "inter_cache")  # what sherpa-onnx calls them, in its order


class PackedGraph(Graph):
    """A graph of spectra whose states are the three that GTCRN's authors have: convolutions (1, N), attentions or
    gates (1, N') and what runs along time between encoder and decoder (1, N'').

    Raises UserError if the frames don't overlap by half, the only overlap that sherpa-onnx adds up rightly, for another
    window than square-root Hann, under which its output is 0.003 from the model's, and for a model without states of
    one of the three kinds.
    """

    def __init__(self, enhancer: Enhancer, kind: str):
        super().__init__(enhancer, kind)
        if enhancer.window_length != 2 * enhancer.hop_length:
            raise UserError(
                f"hop_length={enhancer.hop_length}, n_fft={enhancer.window_length}: sherpa-onnx streams only "
                "frames that overlap by half; use format=onnx"
            )
        if enhancer.framing.window_name != "hann_sqrt":
            raise UserError(
                f"window={enhancer.framing.window_name}: sherpa-onnx restores signals only under the square root of a "
                "Hann window; use format=onnx"
            )
        self._parts = {cache: {} for cache in CACHES}
        for name, state in self.states.items():
            self._parts[_cache_of(name)][name] = state
        if missing := [cache for cache, parts in self._parts.items() if not parts]:
            raise UserError(
                f"{type(enhancer.core).__name__}: has no states for {' and '.join(missing)}, which sherpa-onnx "
                "hands to GTCRN and its kin; use format=onnx"
            )
        self._order = list(self.states)
        self.states = {cache: self._pack(self.states, cache) for cache in CACHES}

    def forward(self, x: Tensor, *caches: Tensor) -> tuple[Tensor, ...]:
        parts = {name: part for cache, packed in zip(CACHES, caches) for name, part in self._unpack(cache, packed)}
        y, *states = super().forward(x, *(parts[name] for name in self._order))
        states = dict(zip(self._order, states))
        return y, *(self._pack(states, cache) for cache in CACHES)

    def _pack(self, states: dict[str, Tensor], cache: str) -> Tensor:
        return torch.cat([states[name].reshape(1, -1) for name in self._parts[cache]], dim=1)

    def _unpack(self, cache: str, packed: Tensor) -> list[tuple[str, Tensor]]:
        shapes = {name: state.shape for name, state in self._parts[cache].items()}
        pieces = packed.split([math.prod(shape) for shape in shapes.values()], dim=1)
        return [(name, piece.reshape(shape)) for (name, shape), piece in zip(shapes.items(), pieces)]


def _cache_of(state: str) -> str:
    if "tra" in state.split("."):
        return "tra_cache"
    return "inter_cache" if state.startswith("state.dual_path.") else "conv_cache"


def write(graph: PackedGraph, path: Path, metadata: dict[str, str]) -> None:
    """Write an ONNX file that has the metadata that sherpa-onnx asks for, too. Raises UserError as `onnx.write`."""
    shapes = {f"{cache}_shape": ",".join(map(str, state.shape)) for cache, state in graph.states.items()}
    asked = {
        "model_type": "gtcrn",
        "version": "1",
        "window_length": metadata["n_fft"],
        "window_type": metadata["window"],
    }
    onnx.write(graph, path, metadata | asked | shapes)
