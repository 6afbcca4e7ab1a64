"""Weights to begin training with: those of a checkpoint, as far as they mean the same."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from torch import nn

from gtcrn.dsp import ERBMatrix
from gtcrn.errors import UserError
from gtcrn.models.enhancer import Enhancer
from gtcrn.models.pretrained import Checkpoint, StateDict

_SHOWN = 5  # examples in a line of the log


@dataclass(frozen=True)
class InitialWeights:
    """What of a checkpoint stands in a model now, and what does not. Tensors are named as in the core's state_dict.

    parameters, all_parameters: counts, those loaded and those of the model. unknown: of the model, by modules,
    since the file does not have them. unused: of the file, by modules. unlike: of both, {name: why not loaded}.
    notes: what else is to be known.
    """

    source: str
    loaded: tuple[str, ...]
    parameters: int
    all_parameters: int
    unknown: dict[str, int]
    unused: dict[str, int]
    unlike: dict[str, str]
    notes: tuple[str, ...]

    def lines(self) -> list[str]:
        """For the log: what was loaded, then what was not, the first of it by name."""
        lines = [self._headline()]
        for title, items in self._left():
            if items:
                shown = "; ".join(items[:_SHOWN])
                more = len(items) - _SHOWN
                lines.append(f"  {title}: {shown}" + (f"; and {more} more" if more > 0 else ""))
        return lines + [f"  {note}" for note in self.notes]

    def markdown(self) -> str:
        """The same with every tensor."""
        sections = [*self._left(), ("loaded", list(self.loaded))]
        text = ["# Initial weights", "", self._headline(), *(f"\n{note}" for note in self.notes)]
        for title, items in sections:
            text += ["", f"## {title[0].upper()}{title[1:]}", "", *([f"- {item}" for item in items] or ["nothing"])]
        return "\n".join(text) + "\n"

    def _headline(self) -> str:
        return (
            f"{self.source}: {len(self.loaded)} tensors loaded, "
            f"{self.parameters:,} of the model's {self.all_parameters:,} parameters"
        )

    def _left(self) -> list[tuple[str, list[str]]]:
        def counted(modules: dict[str, int]) -> list[str]:
            return [f"{name} ({count})" for name, count in modules.items()]

        return [
            ("left at their random start, not in the file (tensors)", counted(self.unknown)),
            ("in the file, not used (tensors)", counted(self.unused)),
            (
                "in both, but not alike, so left at their random start",
                [f"{k}: {why}" for k, why in self.unlike.items()],
            ),
        ]


def initialise(enhancer: Enhancer, checkpoint: Checkpoint) -> InitialWeights:
    """Put into `enhancer` what the checkpoint has for it, in place.

    A tensor goes where its name and shape agree, in a core of the same class, and the layers that own it are of
    the same classes all the way down. A layer with one tensor of another shape gets none of them: a bias means nothing
    without its weight. Raises `UserError` if the checkpoint holds another system, or nothing fits.
    """
    theirs = checkpoint.blank()
    if type(theirs.core) is not type(enhancer.core):
        raise UserError(
            f"checkpoint {checkpoint.path}: holds {type(theirs.core).__name__}, but the model is "
            f"{type(enhancer.core).__name__}; weights mean the same only within one system, so choose its model="
        )
    ours, weights = enhancer.core.state_dict(), checkpoint.weights
    unlike = _unlike(enhancer, theirs, ours, weights)
    loaded = {key: weights[key] for key in ours if key in weights and key not in unlike}
    trained = {
        name: parameter.numel() for name, parameter in enhancer.core.named_parameters() if parameter.requires_grad
    }
    if not trained.keys() & loaded.keys():
        raise UserError(
            f"checkpoint {checkpoint.path}: not one of the {len(trained)} trainable tensors fits the model: "
            + next((f"{name}: {why}" for name, why in unlike.items()), "its names are others")
        )
    enhancer.core.load_state_dict(loaded, strict=False)
    return InitialWeights(
        source=f"{checkpoint.path} ({checkpoint.system})",
        loaded=tuple(loaded),
        parameters=sum(trained[name] for name in trained.keys() & loaded.keys()),
        all_parameters=sum(trained.values()),
        unknown=_by_module(ours.keys() - weights.keys(), ours),
        unused=_by_module(weights.keys() - ours.keys(), weights),
        unlike=unlike,
        notes=tuple(_notes(enhancer, theirs)),
    )


def _notes(enhancer: Enhancer, theirs: Enhancer) -> Iterator[str]:
    ahead = theirs.total_lookahead()
    if ahead and not enhancer.total_lookahead():
        yield f"the file's model is not causal (offline: it looks {ahead} frames ahead), this one is"
    if theirs.sample_rate != enhancer.sample_rate:
        yield f"the file's model is one for {theirs.sample_rate} Hz, this one for {enhancer.sample_rate} Hz"


def _unlike(enhancer: Enhancer, theirs: Enhancer, ours: StateDict, weights: StateDict) -> dict[str, str]:
    """{tensor: why it is not loaded} of those that both have."""
    # the same shape of filterbank at another rate or window stands for other frequencies
    same_bins = (enhancer.sample_rate, enhancer.window_length) == (theirs.sample_rate, theirs.window_length)
    unlike = {}
    for key in (key for key in ours if key in weights):
        here, there = _classes(enhancer.core, key), _classes(theirs.core, key)
        if weights[key].shape != ours[key].shape:
            unlike[key] = f"{tuple(weights[key].shape)} in the file, {tuple(ours[key].shape)} here"
        elif here != there:
            unlike[key] = f"of {'.'.join(there)} in the file, of {'.'.join(here)} here"
        elif here[-1] == ERBMatrix.__name__ and not same_bins:
            unlike[key] = "fixed bands of another sample rate or window in the file"
    owners = {_owner(key) for key in unlike}
    return {
        key: unlike.get(key, "its layer has a tensor of another shape")
        for key in ours
        if key in weights and _owner(key) in owners
    }


def _classes(core: nn.Module, key: str) -> list[str]:
    """The classes of the modules within one another that own a tensor, by name: torch makes a class for each
    module that it reparametrises."""
    parts = key.split(".")[:-1]
    return [type(core.get_submodule(".".join(parts[:depth]))).__name__ for depth in range(len(parts) + 1)]


def _owner(key: str) -> str:
    return key.rpartition(".")[0]


def _by_module(keys: Iterable[str], state: StateDict) -> dict[str, int]:
    """{the outermost modules that consist of `keys` alone, or tensors: how many}"""
    keys, counts = set(keys), {}
    for key in (key for key in state if key in keys):
        parts = key.split(".")
        prefixes = [".".join(parts[:depth]) for depth in range(1, len(parts))]
        whole = (p for p in prefixes if all(other in keys for other in state if other.startswith(f"{p}.")))
        name = next(whole, key)
        counts[name] = counts.get(name, 0) + 1
    return counts
