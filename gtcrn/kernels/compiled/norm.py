"""Batch normalisation with the PReLU behind it, in training and outside of it."""

from __future__ import annotations

import math

import numpy as np

from gtcrn.kernels.compiled.kernel import kernel


@kernel
def norm_forward(x, weight, bias, slope, eps, y, mean, variance, begin, end):
    """Normalise the channels of x (B, C, S) from `begin` to `end` by their statistics, and apply a PReLU of one slope,
    (1,).

    weight, bias: of the normalisation, (C,). y (B, C, S), mean and variance (C,), the latter biased, get the results.
    """
    batch, _, size = x.shape
    zero, leak = x.dtype.type(0), slope[0]
    for c in range(begin, end):
        total, squares = 0.0, 0.0
        for b in range(batch):
            row = x[b, c]
            for n in range(size):
                value = np.float64(row[n])
                total += value
                squares += value * value
        average = total / (batch * size)
        spread = max(squares / (batch * size) - average * average, 0.0)
        mean[c], variance[c] = average, spread
        middle, shift, scale = mean[c], bias[c], x.dtype.type(weight[c] / math.sqrt(spread + eps))
        for b in range(batch):
            row, out = x[b, c], y[b, c]
            for n in range(size):
                value = scale * (row[n] - middle) + shift
                out[n] = value if value > zero else leak * value


@kernel
def norm_backward(dy, x, weight, bias, slope, mean, variance, eps, dx, dweight, dbias, begin, end):
    """Run `norm_forward` back: dx (B, C, S), dweight and dbias (C,) get the gradients. Return what these channels
    contribute to that of the slope.
    """
    batch, _, size = x.shape
    zero, leak = x.dtype.type(0), slope[0]
    total_slope = 0.0
    for c in range(begin, end):
        deviation = math.sqrt(variance[c] + eps)
        middle, shift, scale = mean[c], bias[c], x.dtype.type(weight[c] / deviation)
        total, product = 0.0, 0.0
        for b in range(batch):
            row, grad = x[b, c], dy[b, c]
            for n in range(size):
                centred = row[n] - middle
                value = scale * centred + shift
                given = np.float64(grad[n])
                total_slope += zero if value > zero else given * value
                given = given if value > zero else given * leak
                total += given
                product += given * centred
        dbias[c], dweight[c] = total, product / deviation
        constant = x.dtype.type(total / (batch * size))
        slant = x.dtype.type(product / (batch * size) / (deviation * deviation))
        for b in range(batch):
            row, grad, out = x[b, c], dy[b, c], dx[b, c]
            for n in range(size):
                centred = row[n] - middle
                given = grad[n] if scale * centred + shift > zero else grad[n] * leak
                out[n] = scale * (given - constant - slant * centred)
    return total_slope


@kernel
def scale_and_shift(x, scale, shift, slope, y):
    """Scale and shift each channel of x (B, C, S), and apply a PReLU of one slope, (1,), into y."""
    zero, leak = x.dtype.type(0), slope[0]
    for b in range(x.shape[0]):
        for c in range(x.shape[1]):
            row, out = x[b, c], y[b, c]
            for n in range(x.shape[2]):
                value = scale[c] * row[n] + shift[c]
                out[n] = value if value > zero else leak * value
