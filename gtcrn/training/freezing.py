"""Freezing: named parts of a model that training does not change."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches

import pytorch_lightning as pl
from torch import nn

from gtcrn.errors import UserError


class Frozen(pl.Callback):
    """A callback that freezes parts: no gradients, fixed normalisation statistics, dropout off.

    core: that of the enhancer. names: submodules, as in the keys of its state_dict. Raises `UserError` if one does not
    exist or has nothing that trains, or if nothing else is left to train.
    """

    def __init__(self, core: nn.Module, names: Sequence[str]):
        parts = {name: submodule(core, name, "freeze") for name in names}
        for name, part in parts.items():
            if not _trains(part):
                raise UserError(f"freeze: {name!r} has no parameters that train; leave it out")
        for part in parts.values():
            part.requires_grad_(False)
        if not _trains(core):
            raise UserError(f"freeze=[{','.join(names)}]: nothing is left to train; leave a part out")
        modules = {module for part in parts.values() for module in part.modules()}
        # cuDNN needs recurrent layers in training mode for gradients; all that this mode does there is dropout
        recurrent = {module for module in modules if isinstance(module, nn.RNNBase)}
        for module in recurrent:
            module.dropout = 0.0
        self.modules = modules - recurrent

    def on_train_batch_start(self, *args) -> None:
        for module in self.modules:
            module.training = False


def submodule(core: nn.Module, name: str, key: str) -> nn.Module:
    """Return the part of `core` with this dotted name. Raises `UserError` with `key` and the parts there are."""
    parts = dict(core.named_modules())
    if name and name in parts:
        return parts[name]
    near = get_close_matches(name, parts, n=3)
    outer = [part for part in parts if part and part.count(".") < 2 and _trains(parts[part])]
    raise UserError(
        f"{key}: {type(core).__name__} has no part {name!r}; "
        + (f"did you mean {' or '.join(near)}? " if near else "")
        + f"there are {', '.join(outer)}, and their own parts"
    )


def _trains(module: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters())
