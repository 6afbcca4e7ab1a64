"""Removal of weight norm and other parametrisations."""

from __future__ import annotations

from typing import TypeVar

from torch import nn
from torch.nn.utils import parametrize

Module = TypeVar("Module", bound=nn.Module)


def remove_reparametrisations(module: Module) -> Module:
    """Replace weights that weight norm or the like computes by plain ones, in place, and return `module`.

    Its output stays the same, and its state_dict has the layers' own keys. torch's own removal edits the layer's
    class, which breaks copies of it, and leaves buffers for frozen weights.
    """
    for layer in [layer for layer in module.modules() if parametrize.is_parametrized(layer)]:
        plain = {}
        for name, parts in layer.parametrizations.items():
            trainable = any(part.requires_grad for part in parts.parameters())
            plain[name] = nn.Parameter(getattr(layer, name).detach().clone(), trainable)
        del layer.parametrizations
        # torch derived a class for this layer alone from the real one, which is restored here; see above for why not
        # by torch's own removal
        layer.__class__ = type(layer).__bases__[0]
        for name, weight in plain.items():
            layer.register_parameter(name, weight)
    return module
