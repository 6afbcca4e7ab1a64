"""Batch normalisation with the PReLU behind it, in training and outside of it, and layer normalisation."""

from __future__ import annotations

import math

import numpy as np

from gtcrn.kernels.compiled.kernel import kernel

BLOCK = 256  # places that are normalised over channels together, so that they stay in the innermost cache


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


@kernel
def layer_norm_forward(x, weight, bias, eps, y, mean, inverse, begin, end):
    """Normalise x (B, C, S) over its channels, at the places of S from `begin` to `end`.

    weight, bias: (C,). y (B, C, S), mean and inverse (B, S), the latter of the deviation, get the results.
    """
    batch, channels, _ = x.shape
    share, one = x.dtype.type(1 / channels), x.dtype.type(1)
    small = x.dtype.type(eps)
    for b in range(batch):
        for first in range(begin, end, BLOCK):
            last = min(first + BLOCK, end)
            middle, scale = mean[b, first:last], inverse[b, first:last]
            for n in range(middle.size):
                middle[n] = scale[n] = 0
            for c in range(channels):
                row = x[b, c, first:last]
                for n in range(row.size):
                    middle[n] += share * row[n]
            for c in range(channels):
                row = x[b, c, first:last]
                for n in range(row.size):
                    centred = row[n] - middle[n]
                    scale[n] += share * (centred * centred)
            for n in range(scale.size):
                scale[n] = one / np.sqrt(scale[n] + small)
            for c in range(channels):
                row, out = x[b, c, first:last], y[b, c, first:last]
                for n in range(row.size):
                    out[n] = (row[n] - middle[n]) * scale[n] * weight[c] + bias[c]


@kernel
def layer_norm_backward(dy, x, weight, mean, inverse, dx, begin, end):
    """Run `layer_norm_forward` back: dx (B, C, S) gets the gradient. Return what these places contribute to the
    gradients of weight and bias, (2, C).
    """
    batch, channels, _ = x.shape
    share, zero = x.dtype.type(1 / channels), x.dtype.type(0)
    sums = np.zeros((2, channels))
    total, product = np.empty(BLOCK, x.dtype), np.empty(BLOCK, x.dtype)
    for b in range(batch):
        for first in range(begin, end, BLOCK):
            last = min(first + BLOCK, end)
            middle, scale = mean[b, first:last], inverse[b, first:last]
            for n in range(last - first):
                total[n] = product[n] = 0
            for c in range(channels):
                row, grad = x[b, c, first:last], dy[b, c, first:last]
                by_weight = by_bias = zero
                for n in range(row.size):
                    given = share * weight[c] * grad[n]
                    normal = (row[n] - middle[n]) * scale[n]
                    total[n] += given
                    product[n] += given * normal
                    by_weight += grad[n] * normal
                    by_bias += grad[n]
                sums[0, c] += by_weight
                sums[1, c] += by_bias
            for c in range(channels):
                row, grad, out = x[b, c, first:last], dy[b, c, first:last], dx[b, c, first:last]
                for n in range(row.size):
                    normal = (row[n] - middle[n]) * scale[n]
                    out[n] = scale[n] * (weight[c] * grad[n] - total[n] - normal * product[n])
    return sums
