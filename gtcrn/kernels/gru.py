"""A GRU in which one kernel takes all steps of all sequences."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from gtcrn.kernels.choice import arrays, compiled
from gtcrn.kernels.threads import shared

WIDEST = 32  # units; from 48 on, PyTorch's matrix products are as fast for hundreds of sequences, or faster
FEWEST = 32  # sequences that a thread gets, since a few are computed as fast as one


class GRU(nn.GRU):
    """torch's GRU, batch first: x (…, L, C), first state (D · layers, N, H) -> y (…, L, D · H), last state.

    D: directions. N: sequences, in the dimensions of x before L. Without a first state they begin with zeros.
    """

    def __init__(self, input_size: int, hidden_size: int, num_layers: int = 1, bidirectional: bool = False):
        super().__init__(input_size, hidden_size, num_layers, batch_first=True, bidirectional=bidirectional)

    def forward(self, x: Tensor, hidden: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if x.shape[-2] == 1 or self.num_layers > 1 or self.hidden_size > WIDEST or not compiled(x):  # one step is quick
            y, last = super().forward(x.flatten(0, -3), hidden)
            return y.unflatten(0, x.shape[:-2]), last
        weights = [torch.stack(both) if self.bidirectional else both[0][None] for both in zip(*self.all_weights)]
        if hidden is None:
            hidden = x.new_zeros(1 + self.bidirectional, x.shape[:-2].numel(), self.hidden_size)
        if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (x, hidden, *weights)):
            return _GRU.apply(x, hidden, *weights)
        return _run(x, hidden, *weights, keep=False)[:2]


class _GRU(torch.autograd.Function):
    """The kernel with gradients: x (…, L, C), first state (D, N, H), and nn.GRU's parameters, stacked by direction."""

    @staticmethod
    def forward(ctx, x, first, w_ih, w_hh, b_ih, b_hh):
        y, last, *kept = _run(x, first, w_ih, w_hh, b_ih, b_hh, keep=True)
        ctx.batch = x.shape[:-2]
        ctx.save_for_backward(w_ih, w_hh, *kept)
        return y, last

    @staticmethod
    @once_differentiable
    def backward(ctx, dy, dlast):
        from gtcrn.kernels.compiled.gru import gru_backward

        w_ih, w_hh, inputs, gates, old, states = ctx.saved_tensors
        directions, units, length, sequences = old.shape
        dy = _sequences_last(dy).reshape(old.shape)
        dfirst = dlast.transpose(1, 2).clone(memory_format=torch.contiguous_format)
        grads = gates.new_empty(directions, 4 * units, length, sequences)
        given = arrays(dy, dfirst, gates, old, w_hh, states, grads)
        shared(lambda begin, end: gru_backward(*given, begin, end), sequences, FEWEST)
        grads = grads.flatten(2)  # (D, 4H, L·N): of what the state gives to the new gate; of reset, update, new
        by_state, by_input = grads[:, : 3 * units], grads[:, units:]
        before = (states[0, :, :-2], states[-1, :, 2:])[:directions]  # the states that the steps begin with
        sums = grads.sum(2)
        dw_hh = torch.stack([grad @ state.flatten(1).T for grad, state in zip(by_state, before)])
        dx = w_ih.flatten(0, 1).T @ by_input.flatten(0, 1)
        return (
            dx.view(-1, length, *ctx.batch).movedim((0, 1), (-1, -2)),
            dfirst.transpose(1, 2),
            by_input @ inputs.flatten(1).T,
            dw_hh.roll(-units, dims=1),  # torch's order is reset, update, new
            sums[:, units:],
            sums[:, : 3 * units].roll(-units, dims=1),
        )


def _run(x: Tensor, first: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor, keep: bool) -> tuple:
    """Return the output and the last state, and what the gradients need. keep: whether they will be asked for."""
    from gtcrn.kernels.compiled.gru import gru_forward  # here, since the import of numba takes half a second

    directions, sequences, units = first.shape
    length = x.shape[-2]
    inputs = _sequences_last(x).reshape(x.shape[-1], length, sequences)  # (C, L, N)
    reset_update, new = b_hh.split((2 * units, units), dim=1)
    bias = torch.cat([b_ih[:, : 2 * units] + reset_update, b_ih[:, 2 * units :], new], dim=1)
    states = x.new_empty(directions, units, length + 2, sequences)
    states[0, :, 0] = first[0].T
    states[-1, :, -1] = first[-1].T  # one direction leaves this place unread
    kept = length if keep else 1
    gates = x.new_empty(directions, 3 * units, kept, sequences)
    old = x.new_empty(directions, units, kept, sequences)
    given = arrays(inputs, w_ih, w_hh, bias, gates, old, states)
    shared(lambda begin, end: gru_forward(*given, begin, end), sequences, FEWEST)
    last = torch.stack([states[0, :, -2], states[-1, :, 1]][:directions]).transpose(1, 2)
    y = states[:, :, 1:-1].flatten(0, 1).unflatten(2, x.shape[:-2])  # (D·H, L, …)
    return y.movedim((0, 1), (-1, -2)), last, inputs, gates, old, states


def _sequences_last(x: Tensor) -> Tensor:
    """Return a view (C, L, …) of (…, L, C)."""
    return x.movedim((-1, -2), (0, 1))
