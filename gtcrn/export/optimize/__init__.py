"""A model as fewer and cheaper operators, for one step of one stream, as it is written to files.

A deep copy is rewritten by rules, one per type of module, from the leaves up: `rules.replacement(module)` is an equal
and cheaper module built from the module's own weights. A module without a rule stays as it is, so a new model exports
without any, and gets faster with each. Where the rules are:

    rules.py        convolutions: BatchNorm, PReLU, transposed ones
    recurrent.py    GRUs side by side as one; a step of them, or a scan over frequency; LSTMs
    blocks.py       blocks and networks of the GTCRN family
    attention.py    RNNFormer blocks and FastEnhancer
    ulunas.py       gates and shuffles of UL-UNAS
    fourier.py      framing, STFT; DTLN
"""

from __future__ import annotations

import copy

import torch

from gtcrn.export.optimize import attention, blocks, fourier, recurrent, ulunas  # noqa: F401  importing registers rules
from gtcrn.export.optimize.rules import fold_batch_norms, rewrite
from gtcrn.models.enhancer import Enhancer
from gtcrn.models.reparametrisation import remove_reparametrisations


@torch.no_grad()
def optimized(enhancer: Enhancer, recurrence: str = "operator") -> Enhancer:
    """Return a copy in evaluation mode with the enhancer's output, for chunks of one hop of one stream alone.

    recurrence: how GRUs over frequency are written, `operator`, one GRU operator each, or `unrolled`, a few plain
        operators for every step, which is faster where an operator costs next to nothing.

    Its states have the enhancer's names, but for those of GRUs that became one. Raises `UserError` naming the layer
    if the enhancer looks ahead.
    """
    enhancer = remove_reparametrisations(copy.deepcopy(enhancer)).eval()
    fold_batch_norms(enhancer)
    return rewrite(enhancer, recurrence).requires_grad_(False)
