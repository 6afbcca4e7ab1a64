"""torch.compile around the core of an enhancer while it trains."""

from __future__ import annotations

import logging

import torch
from torch import nn

from gtcrn.errors import UserError

log = logging.getLogger(__name__)


def check_compiler(mode: str, device: torch.device) -> None:
    """Raise UserError, before hours are spent, if not even a function of one operator can be compiled here."""
    try:
        torch.compile(torch.neg, mode=mode)(torch.ones(2, device=device))
    except Exception as error:  # each backend raises errors of its own
        raise UserError(
            f"training.compile={mode}: nothing can be compiled for {device} on this machine "
            f"({reason_of(error)}); install a C++ compiler, or set training.compile=null"
        ) from error
    if mode == "reduce-overhead" and device.type != "cuda":
        log.info("training.compile=reduce-overhead: CUDA graphs need a GPU; on %s it is the same as default", device)


def reason_of(error: Exception) -> str:
    """Return the reason of a failed compilation in one line, without the advice for developers that follows it."""
    return " ".join(str(error).strip().partition("\n\n")[0].split())


def is_of_compiler(error: Exception) -> bool:
    return type(error).__module__.startswith(("torch._dynamo", "torch._inductor"))  # whose import takes a second


def compile_core(core: nn.Module, mode: str) -> None:
    """Compile a core from its next call on, in place, so that the keys of its state_dict stay as they are.

    A batch of another size is compiled apart, which keeps the code for whole batches as fast as it is.
    """
    core.compile(mode=mode, dynamic=False)
    recurrent = sum(isinstance(part, nn.RNNBase) for part in core.modules())
    left_out = f" but for its {recurrent} recurrent layers, which torch.compile leaves as they are" if recurrent else ""
    log.info("compile=%s: %s trains compiled%s; the first step may take minutes", mode, type(core).__name__, left_out)
