"""Plain weights in place of parametrised ones."""

from __future__ import annotations

from typing import TypeVar

from torch import nn
from torch.nn.utils import parametrize

Module = TypeVar("Module", bound=nn.Module)


def remove_reparametrisations(module: Module) -> Module:
    """Weight norm, and whatever else computes weights from others, made plain in place: the output stays.

    What is left are the layers themselves, with their own keys in the state_dict. Gives back `module`.
    torch's own removal edits the layer's class, which breaks copies of it, and leaves buffers for frozen weights.
    """
    for layer in [layer for layer in module.modules() if parametrize.is_parametrized(layer)]:
        plain = {}
        for name, parts in layer.parametrizations.items():
            trainable = any(part.requires_grad for part in parts.parameters())
            plain[name] = nn.Parameter(getattr(layer, name).detach().clone(), trainable)
        del layer.parametrizations
        # torch gave the layer a class of its own, derived from the real one; its own way back fails as told above
        layer.__class__ = type(layer).__bases__[0]
        for name, weight in plain.items():
            layer.register_parameter(name, weight)
    return module
