"""Several GRUs over shares of the channels, computed as one GRU where that is faster."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

# Hidden units of all GRUs and directions together up to which one GRU replaces them on a CPU. Such narrow GRUs spend
# their time on steps, not on arithmetic, so one is faster for a single frame and for thousands, in training too.
# Above, the zeros in its weights cost more than the steps that it saves.
NARROW = 48


def grouped_gru(grus: Sequence[nn.GRU], x: Tensor, hidden: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Run G GRUs of one size and one layer, batch first, each over its share of the channels.

    x (N, L, G·C), hidden (N, G·H), None for zeros -> y (N, L, G·H), last hidden (N, G·H). Bidirectional GRUs begin with
    zeros: y is (N, L, G·2H), each GRU's forward half before its backward half, and the last hidden has no meaning.
    """
    directions = ("", "_reverse") if grus[0].bidirectional else ("",)
    units = len(directions) * sum(gru.hidden_size for gru in grus)
    if hidden is None:
        hidden = x.new_zeros(x.shape[0], units)
    watched = any(gru._forward_hooks for gru in grus)  # a hook, which counts or keeps a layer's work, must be called
    if watched or not x.is_cpu or not grus[0].hidden_size < units <= NARROW:
        return _one_by_one(grus, x, hidden)
    if grus[0].bidirectional:
        x = torch.cat([x, x.flip(1)], dim=2)
    weights = [
        merge([getattr(gru, name + direction) for direction in directions for gru in grus])
        for name, merge in _PARAMETERS.items()
    ]
    y, last = torch.gru(x, hidden[None], weights, True, 1, 0.0, False, False, True)
    if grus[0].bidirectional:
        forward, backward = y.unflatten(2, (2, len(grus), -1)).unbind(2)  # (N, L, G, H)
        y = torch.stack([forward, backward.flip(1)], dim=3).flatten(2)
    return y, last[0]


def _one_by_one(grus: Sequence[nn.GRU], x: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
    shares = zip(grus, x.chunk(len(grus), dim=2), hidden.chunk(len(grus), dim=1))
    outputs = [gru(part, h.unflatten(1, (-1, gru.hidden_size)).transpose(0, 1).contiguous()) for gru, part, h in shares]
    return torch.cat([y for y, _ in outputs], dim=2), torch.cat([last[-1] for _, last in outputs], dim=1)


def _block_diagonal(matrices: list[Tensor]) -> Tensor:
    """Return the weight (3·G·H, G·C) of one GRU from those of G GRUs, (3H, C) each, gates below one another."""
    blocks = torch.diag_embed(torch.stack(matrices, dim=-1).unflatten(0, (3, -1)))  # (3, H, C, G, G)
    return blocks.permute(0, 3, 1, 4, 2).flatten(3).flatten(0, 2)


def _side_by_side(biases: list[Tensor]) -> Tensor:
    """Return the bias (3·G·H,) of one GRU from those of G GRUs, (3H,) each."""
    return torch.stack([bias.unflatten(0, (3, -1)) for bias in biases], dim=1).flatten()


_PARAMETERS = {
    "weight_ih_l0": _block_diagonal,
    "weight_hh_l0": _block_diagonal,
    "bias_ih_l0": _side_by_side,
    "bias_hh_l0": _side_by_side,
}
