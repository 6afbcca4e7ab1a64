"""The state contract: nested dicts of tensors, keyed like the submodules that own them."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from gtcrn.errors import UserError, counted

State = dict  # nested: {submodule name: State or Tensor}


class Stateful(nn.Module):
    """A module with an explicit past: `y, next_state = module(x, state)`.

    The module itself keeps nothing from call to call. A composite needs no code of its own here:
    its state is the dict of its children's states. A leaf overrides `initial_state`.
    """

    lookahead = 0  # frames of future that this layer itself needs

    def initial_state(self, batch_size: int) -> Any:  # the State of a composite, the Tensor of a leaf
        """Return the state before the signal begins: zeros."""
        return _initial_state_of_children(self, batch_size)

    def total_lookahead(self) -> int:
        """Return the frames of future that the whole module needs: the sum over its layers, as they are in series."""
        return sum(layer.lookahead for layer in self.modules() if isinstance(layer, Stateful))

    def require_causal(self) -> None:
        """Raise UserError, which names the first layer that looks ahead, if this module cannot stream."""
        ahead = [
            (name, layer.lookahead)
            for name, layer in self.named_modules()
            if isinstance(layer, Stateful) and layer.lookahead
        ]
        if ahead:
            name, frames = ahead[0]
            raise UserError(
                f"this model cannot stream: layer {name!r} looks {counted(frames, 'frame')} ahead "
                f"({self.total_lookahead()} frames over {len(ahead)} layers); "
                "train one with streaming=causal, or give this one whole utterances"
            )


def _initial_state_of_children(module: nn.Module, batch_size: int) -> State:
    state: State = {}
    for name, child in module.named_children():
        if isinstance(child, Stateful):
            state[name] = child.initial_state(batch_size)
        elif below := _initial_state_of_children(child, batch_size):  # e.g. an nn.ModuleList of stateful blocks
            state[name] = below
    return state


def flatten(state: State, prefix: str = "state") -> dict[str, Tensor]:
    """Return the tensors of a state by the names of an exported graph's inputs.

    For example, {"encoder": {"2": t}} becomes {"state.encoder.2": t}.
    """
    flat: dict[str, Tensor] = {}
    for name, value in state.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}.{name}")
        else:
            flat[f"{prefix}.{name}"] = value
    return flat
