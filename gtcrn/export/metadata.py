"""The facts that are written into an exported file: its signal, its states, whose weights it holds, and its licence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from gtcrn.export.graph import Graph
from gtcrn.models.enhancer import Enhancer, FrameEnhancer
from gtcrn.models.pretrained import PUBLISHED, Checkpoint
from gtcrn.revision import revision
from gtcrn.runtime.facts import ModelFacts, Signal
from gtcrn.weights import known


class Weights(NamedTuple):
    """The origin and licence of weights. scores: measure by measure, and where they stand; "" if none are known."""

    origin: str
    licence: str
    scores: str = ""


UNSTATED = "not stated"  # a licence


def weights_of(checkpoint: Checkpoint, choices: Mapping[str, str] | None = None) -> Weights:
    """Return what is known of the weights in a file: of published files all, of others no licence, and what is sure.

    choices: of the run that trained them, by configuration group, see `gtcrn.reports.runs.choices_of`.
    """
    digest = checkpoint.digest
    if entry := known(digest):  # whoever trains with an author's code writes files of the same format
        return Weights(entry.origin, entry.licence, entry.published)
    if checkpoint.system in {published.name for published in PUBLISHED}:
        return Weights(
            f"an unknown checkpoint in the format of {checkpoint.system}'s authors, SHA-256 {digest}", UNSTATED
        )
    trained = "a checkpoint of this framework, away from the run that trained it"
    if choices:
        trained = " ".join(["trained with this framework:", *(f"{group}={choices[group]}" for group in choices)])
    return Weights(f"{trained}, SHA-256 {digest}", UNSTATED)


def system_name(enhancer: Enhancer) -> str:
    """Return what its authors call the system."""
    names = {published.core: published.name for published in PUBLISHED}
    return names.get(type(enhancer.core), type(enhancer.core).__name__)


def describe(graph: Graph, enhancer: Enhancer, weights: Weights) -> ModelFacts:
    """Return what a file of this graph says of itself. enhancer: the model that the graph was made of."""
    window = enhancer.framing.window_name if isinstance(enhancer, FrameEnhancer) else "none"
    sizes = enhancer.sample_rate, enhancer.window_length, enhancer.hop_length, enhancer.latency
    return ModelFacts(
        system=system_name(enhancer),
        signal=Signal(graph.kind, *sizes, window),
        states={name: list(state.shape) for name, state in graph.states.items()},
        licence=weights.licence,
        origin=weights.origin,
        revision=revision(),
        integers=graph.integers,
        input_level=enhancer.input_level,
    )
