"""Gated recurrent units. Sequences are innermost."""

from __future__ import annotations

import math

import numpy as np
from numba.core import types
from numba.extending import overload

from gtcrn.kernels.compiled.kernel import kernel

BLOCK = 256  # sequences that are computed together, so that their hidden state stays in the innermost cache

# Coefficients of Eigen's tanh in single precision: x · p(x²) / q(x²), both from the highest power down
_P = (-2.76076847742355e-16, 2.00018790482477e-13, -8.60467152213735e-11, 5.12229709037114e-08, 1.48572235717979e-05)
_P += (6.37261928875436e-04, 4.89352455891786e-03)
_Q = (1.19825839466702e-06, 1.18534705686654e-04, 2.26843463243900e-03, 4.89352518554385e-03)
_P0, _P1, _P2, _P3, _P4, _P5, _P6 = (np.float32(value) for value in _P)
_Q0, _Q1, _Q2, _Q3 = (np.float32(value) for value in _Q)
_ALMOST_ONE = np.float32(7.90531110763549805)  # beyond, tanh is ±1 in single precision


def tanh(x):
    """Stand for the function that `_tanh` compiles."""


@overload(tanh, jit_options={"fastmath": {"contract"}})
def _tanh(x):
    def exact(x):
        return math.tanh(x)

    def rational(x):
        x = _ALMOST_ONE if x > _ALMOST_ONE else x  # written so that NaN stays NaN
        x = -_ALMOST_ONE if x < -_ALMOST_ONE else x
        square = x * x
        p = (((((_P0 * square + _P1) * square + _P2) * square + _P3) * square + _P4) * square + _P5) * square + _P6
        q = ((_Q0 * square + _Q1) * square + _Q2) * square + _Q3
        return x * p / q

    return rational if x == types.float32 else exact


@kernel
def _add_products(row, weight, source, t, first):
    """Add to row the products of weight (K,) and source (K, L, N), of step t and as many sequences from `first` on."""
    last = first + row.size
    k = 0
    while k + 4 <= weight.size:
        w0, w1, w2, w3 = weight[k], weight[k + 1], weight[k + 2], weight[k + 3]
        x0 = source[k, t, first:last]
        x1 = source[k + 1, t, first:last]
        x2 = source[k + 2, t, first:last]
        x3 = source[k + 3, t, first:last]
        for n in range(row.size):
            row[n] += w0 * x0[n] + w1 * x1[n] + (w2 * x2[n] + w3 * x3[n])
        k += 4
    while k < weight.size:
        w0 = weight[k]
        x0 = source[k, t, first:last]
        for n in range(row.size):
            row[n] += w0 * x0[n]
        k += 1


@kernel
def gru_forward(inputs, w_ih, w_hh, bias, gates, old, hidden, begin, end):
    """Run D GRUs over those of N sequences from `begin` to `end`, the second backwards.

    inputs (C, L, N). w_ih (D, 3H, C) and w_hh (D, 3H, H): of reset, update and new gate. bias (D, 4H): of reset, of
    update, and of the input's and the state's part of the new gate. gates (D, 3H, L or 1, N): gets the gates. old (D,
    H, L or 1, N): gets the part of the new gate that comes from the state. The way back needs both; of length 1, they
    are not kept. hidden (D, H, L + 2, N): gets the states, between the first state of the forward GRU at 0 and that of
    the backward GRU at L + 1.
    """
    directions, units, length = hidden.shape[:3]
    length -= 2
    half = hidden.dtype.type(0.5)
    for d in range(directions):
        for first in range(begin, end, BLOCK):
            last = min(first + BLOCK, end)
            for step in range(length):
                t = length - 1 - step if d else step
                past = t + 2 if d else t
                kept = t if old.shape[2] > 1 else 0
                for j in range(units):
                    row = old[d, j, kept, first:last]
                    for n in range(row.size):
                        row[n] = bias[d, 3 * units + j]
                for g in range(3 * units):
                    row = gates[d, g, kept, first:last]
                    for n in range(row.size):
                        row[n] = bias[d, g]
                    _add_products(row, w_ih[d, g], inputs, t, first)
                    if g >= 2 * units:
                        row = old[d, g - 2 * units, kept, first:last]
                    _add_products(row, w_hh[d, g], hidden[d], past, first)
                for g in range(2 * units):
                    row = gates[d, g, kept, first:last]
                    for n in range(row.size):
                        row[n] = half + half * tanh(half * row[n])  # the logistic function
                for j in range(units):
                    reset = gates[d, j, kept, first:last]
                    update = gates[d, units + j, kept, first:last]
                    new = gates[d, 2 * units + j, kept, first:last]
                    row = old[d, j, kept, first:last]
                    before = hidden[d, j, past, first:last]
                    after = hidden[d, j, t + 1, first:last]
                    for n in range(new.size):
                        new[n] = tanh(new[n] + reset[n] * row[n])
                    for n in range(new.size):
                        after[n] = new[n] + update[n] * (before[n] - new[n])


@kernel
def gru_backward(grad, carry, gates, old, weight, hidden, out, begin, end):
    """Run the GRUs of `gru_forward` back, those of the sequences from `begin` to `end`.

    grad (D, H, L, N): of the states. carry (D, H, N): the gradient of the last state, and then that of the first.
    out (D, 4H, L, N): gets the gradients before the gates' functions: of the state's part of the new gate, of reset,
    of update, and of the input's part of the new gate.
    """
    directions, units, length = grad.shape[:3]
    one = hidden.dtype.type(1)
    for d in range(directions):
        for first in range(begin, end, BLOCK):
            last = min(first + BLOCK, end)
            for step in range(length):
                t = step if d else length - 1 - step
                past = t + 2 if d else t
                for j in range(units):
                    reset = gates[d, j, t, first:last]
                    update = gates[d, units + j, t, first:last]
                    new = gates[d, 2 * units + j, t, first:last]
                    row = old[d, j, t, first:last]
                    before = hidden[d, j, past, first:last]
                    dy = grad[d, j, t, first:last]
                    dh = carry[d, j, first:last]
                    dold = out[d, j, t, first:last]
                    dreset = out[d, units + j, t, first:last]
                    dupdate = out[d, 2 * units + j, t, first:last]
                    dnew = out[d, 3 * units + j, t, first:last]
                    for n in range(dh.size):
                        dh[n] += dy[n]
                    for n in range(dh.size):
                        dupdate[n] = dh[n] * (before[n] - new[n]) * (update[n] * (one - update[n]))
                    for n in range(dh.size):
                        dnew[n] = dh[n] * (one - update[n]) * (one - new[n] * new[n])
                    for n in range(dh.size):
                        dreset[n] = dnew[n] * row[n] * (reset[n] * (one - reset[n]))
                    for n in range(dh.size):
                        dold[n] = dnew[n] * reset[n]
                    for n in range(dh.size):
                        dh[n] *= update[n]
                for k in range(units):
                    dh = carry[d, k, first:last]
                    for j in range(units):
                        w0, w1, w2 = weight[d, j, k], weight[d, units + j, k], weight[d, 2 * units + j, k]
                        dreset = out[d, units + j, t, first:last]
                        dupdate = out[d, 2 * units + j, t, first:last]
                        dold = out[d, j, t, first:last]
                        for n in range(dh.size):
                            dh[n] += w0 * dreset[n] + w1 * dupdate[n] + w2 * dold[n]
