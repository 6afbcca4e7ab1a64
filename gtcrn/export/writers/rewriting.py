"""Functions of torch in other forms, for converters that do not know all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch.overrides import TorchFunctionMode


class Rewriting(TorchFunctionMode):
    """A context in which torch calls `forms[function]` in place of every function that has another form there."""

    def __init__(self, forms: Mapping[Callable, Callable]):
        super().__init__()
        self.forms = forms

    def __torch_function__(self, function, types, args=(), kwargs=None):
        return self.forms.get(function, function)(*args, **(kwargs or {}))
