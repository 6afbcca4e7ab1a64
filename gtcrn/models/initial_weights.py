"""Initial weights of a training from a checkpoint, as far as they mean the same in the new model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from torch import nn

from gtcrn.dsp.erb import ERBMatrix
from gtcrn.errors import UserError
from gtcrn.models.enhancer import Enhancer
from gtcrn.models.pretrained import Checkpoint, StateDict

_SHOWN = 5  # examples in a line of the log


@dataclass(frozen=True)
class InitialWeights:
    """A report of which tensors of a checkpoint were loaded into a model, named as in the core's state_dict.

    loaded: names of the tensors that were. parameters, all_parameters: counts of loaded parameters and of the model's.
    missing: counts of the model's tensors that the file does not have, by module. unused: counts of the file's tensors
    that the model does not have, by module. mismatched: {name: why it was not loaded} of tensors that both have.
    notes: further differences between the two models.
    """

    source: str
    loaded: tuple[str, ...]
    parameters: int
    all_parameters: int
    missing: dict[str, int]
    unused: dict[str, int]
    mismatched: dict[str, str]
    notes: tuple[str, ...]

    def lines(self) -> list[str]:
        """Return lines for the log: what was loaded, then what was not, with the first few by name."""
        lines = [self._headline()]
        for title, items in self._not_loaded():
            if items:
                shown = "; ".join(items[:_SHOWN])
                more = len(items) - _SHOWN
                lines.append(f"  {title}: {shown}" + (f"; and {more} more" if more > 0 else ""))
        return lines + [f"  {note}" for note in self.notes]

    def markdown(self) -> str:
        """Return the report in Markdown, with every tensor by name."""
        sections = [*self._not_loaded(), ("loaded", list(self.loaded))]
        text = ["# Initial weights", "", self._headline(), *(f"\n{note}" for note in self.notes)]
        for title, items in sections:
            text += ["", f"## {title[0].upper()}{title[1:]}", "", *([f"- {item}" for item in items] or ["nothing"])]
        return "\n".join(text) + "\n"

    def _headline(self) -> str:
        return (
            f"{self.source}: {len(self.loaded)} tensors loaded, "
            f"{self.parameters:,} of the model's {self.all_parameters:,} parameters"
        )

    def _not_loaded(self) -> list[tuple[str, list[str]]]:
        def counted(modules: dict[str, int]) -> list[str]:
            return [f"{name} ({count})" for name, count in modules.items()]

        return [
            ("left at their random start, not in the file (tensors)", counted(self.missing)),
            ("in the file, not used (tensors)", counted(self.unused)),
            (
                "in both, but not alike, so left at their random start",
                [f"{k}: {why}" for k, why in self.mismatched.items()],
            ),
        ]


def initialise(enhancer: Enhancer, checkpoint: Checkpoint) -> InitialWeights:
    """Load the weights of the checkpoint that fit `enhancer`, in place, and return a report of them.

    A tensor is loaded if the cores have the same class, its name and shape agree, and the modules around it have the
    same classes at every level. A layer with one tensor of another shape gets none of them: a bias means nothing
    without its weight. Raises `UserError` if the checkpoint holds another system, or nothing fits.
    """
    source = checkpoint.blank()
    if type(source.core) is not type(enhancer.core):
        raise UserError(
            f"checkpoint {checkpoint.path}: holds {type(source.core).__name__}, but the model is "
            f"{type(enhancer.core).__name__}; weights mean the same only within one system, so choose its model="
        )
    state, weights = enhancer.core.state_dict(), checkpoint.weights
    mismatched = _mismatched(enhancer, source, state, weights)
    loaded = {key: weights[key] for key in state if key in weights and key not in mismatched}
    trained = {
        name: parameter.numel() for name, parameter in enhancer.core.named_parameters() if parameter.requires_grad
    }
    if not trained.keys() & loaded.keys():
        raise UserError(
            f"checkpoint {checkpoint.path}: not one of the {len(trained)} trainable tensors fits the model: "
            + next((f"{name}: {why}" for name, why in mismatched.items()), "its names are others")
        )
    enhancer.core.load_state_dict(loaded, strict=False)
    return InitialWeights(
        source=f"{checkpoint.path} ({checkpoint.system})",
        loaded=tuple(loaded),
        parameters=sum(trained[name] for name in trained.keys() & loaded.keys()),
        all_parameters=sum(trained.values()),
        missing=_by_module(state.keys() - weights.keys(), state),
        unused=_by_module(weights.keys() - state.keys(), weights),
        mismatched=mismatched,
        notes=tuple(_notes(enhancer, source)),
    )


def _notes(enhancer: Enhancer, source: Enhancer) -> Iterator[str]:
    ahead = source.total_lookahead()
    if ahead and not enhancer.total_lookahead():
        yield f"the file's model is not causal (offline: it looks {ahead} frames ahead), this one is"
    if source.sample_rate != enhancer.sample_rate:
        yield f"the file's model is one for {source.sample_rate} Hz, this one for {enhancer.sample_rate} Hz"


def _mismatched(enhancer: Enhancer, source: Enhancer, state: StateDict, weights: StateDict) -> dict[str, str]:
    """Return {tensor: why it is not loaded} of the tensors that the model and the file both have."""
    # a filterbank of the same shape stands for other frequencies at another rate or window
    same_bins = (enhancer.sample_rate, enhancer.window_length) == (source.sample_rate, source.window_length)
    mismatched = {}
    for key in (key for key in state if key in weights):
        here, there = _classes(enhancer.core, key), _classes(source.core, key)
        if weights[key].shape != state[key].shape:
            mismatched[key] = f"{tuple(weights[key].shape)} in the file, {tuple(state[key].shape)} here"
        elif here != there:
            mismatched[key] = f"of {'.'.join(there)} in the file, of {'.'.join(here)} here"
        elif here[-1] == ERBMatrix.__name__ and not same_bins:
            mismatched[key] = "fixed bands of another sample rate or window in the file"
    owners = {_owner(key) for key in mismatched}
    return {
        key: mismatched.get(key, "its layer has a tensor of another shape")
        for key in state
        if key in weights and _owner(key) in owners
    }


def _classes(core: nn.Module, key: str) -> list[str]:
    """Return the class names of the modules around a tensor, from the core inwards.

    Names are compared, since torch makes a class of its own for each module that it reparametrises.
    """
    parts = key.split(".")[:-1]
    return [type(core.get_submodule(".".join(parts[:depth]))).__name__ for depth in range(len(parts) + 1)]


def _owner(key: str) -> str:
    return key.rpartition(".")[0]


def _by_module(keys: Iterable[str], state: StateDict) -> dict[str, int]:
    """Count `keys` by the outermost module that holds no other tensor, or by the key itself if there is none."""
    keys, counts = set(keys), {}
    for key in (key for key in state if key in keys):
        parts = key.split(".")
        prefixes = [".".join(parts[:depth]) for depth in range(1, len(parts))]
        whole = (p for p in prefixes if all(other in keys for other in state if other.startswith(f"{p}.")))
        name = next(whole, key)
        counts[name] = counts.get(name, 0) + 1
    return counts
