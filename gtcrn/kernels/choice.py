"""Which kernels compute: those that numba compiles, or PyTorch's own operators."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from gtcrn.errors import UserError

CHOICES = ("auto", "numba", "torch")

_choice = "auto"


class use:
    """Choose the kernels of this process, like `torch.set_grad_enabled`: from now on, or within a `with` block.

    auto: numba's wherever they can compute, else PyTorch's. numba: numba's, and an error where they can't compute.
    torch: PyTorch's.
    """

    def __init__(self, name: str):
        global _choice
        if name not in CHOICES:
            raise UserError(f"kernels={name}: must be one of {', '.join(CHOICES)}")
        self.before, _choice = _choice, name

    def __enter__(self) -> None:
        pass

    def __exit__(self, *exception) -> None:
        global _choice
        _choice = self.before


def chosen(device: torch.device, precise: bool = True) -> str:
    """Return the kernels that compute on a device: `numba` or `torch`.

    precise: whether in float32 or float64, without autocast. Raises UserError if numba's must compute and can't.
    """
    possible = device.type == "cpu" and precise
    if _choice == "numba" and not possible:
        raise UserError("kernels=numba: they compute on a CPU alone, in float32 or float64; set kernels=auto")
    return "numba" if possible and _choice != "torch" else "torch"


def compiled(x: Tensor) -> bool:
    """Return whether numba's kernels compute with `x`. While a graph is traced, PyTorch's operators do."""
    # tracers that those two functions do not know give tensors of a class of their own
    traced = torch.compiler.is_compiling() or torch.jit.is_tracing() or type(x) is not Tensor
    precise = x.dtype in (torch.float32, torch.float64) and not torch.is_autocast_enabled("cpu")
    return not traced and chosen(x.device, precise) == "numba"


def arrays(*tensors: Tensor) -> list[np.ndarray]:
    """Return tensors as numba takes them, which share their memory."""
    return [tensor.detach().numpy() for tensor in tensors]


def hooked(module: nn.Module) -> bool:
    """Return whether a hook waits for the module to be called, so that no kernel may compute past it."""
    hooks = "_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"
    return any(getattr(module, name) for name in hooks)  # private, but torch has no public way to ask
