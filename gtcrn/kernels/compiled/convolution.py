"""Convolutions over time and frequency, as sums of shifted copies of a memory in which zeros stand between the frames.

In that memory a frame is `pitch` numbers long, so that a tap of a convolution, wherever it looks, is a constant offset,
and one loop runs over all bins of several frames.
"""

from __future__ import annotations

import numpy as np

from gtcrn.kernels.compiled.kernel import kernel


@kernel
def _fill(memory, length, pitch, x, first, frames, left, stride):
    """Lay frames of x (C, T, F) into rows of a memory: those from `first` on, or zeros where x has none.

    Each channel takes `stride` rows of `length` numbers, the bins f with (f + left) % stride == 0, 1, …, at
    (f + left) // stride of their frame.
    """
    channels, time, bins = x.shape
    for c in range(channels):
        for t in range(first, first + frames):
            start = c * stride * length + (t - first) * pitch
            if not 0 <= t < time:
                for phase in range(stride):
                    memory[start + phase * length : start + phase * length + pitch] = 0
            elif stride == 1:
                row = x[c, t]
                place = memory[start + left : start + left + bins]
                for f in range(bins):
                    place[f] = row[f]
            else:
                row = x[c, t]
                for phase in range(stride):
                    first_bin = (phase - left) % stride
                    place = memory[start + phase * length + (first_bin + left) // stride :]
                    for n in range((bins - first_bin + stride - 1) // stride):
                        place[n] = row[first_bin + n * stride]


@kernel
def convolve(x, weight, bias, offsets, pitch, frames, reach, front, left, split, merge, cut, y):
    """Convolve x (B, C, T, F) into y (B, C', T', F').

    weight (groups, rows, taps): a row for each channel of a group of y, or `merge` rows where its bins are every
    merge-th one of a row, the first at `cut`. offsets (taps,): where the taps look in the memory, whose bins of x are
    split over `split` rows, the first of them at `left`. frames: how many of y are computed together; they look at
    `reach` more of x, the first at -front.
    """
    groups, rows, taps = weight.shape
    channels, time, bins = y.shape[1] // groups, y.shape[2], y.shape[3]
    inputs = x.shape[1] // groups
    length = (frames + reach) * pitch
    memory = np.zeros(inputs * split * length + pitch, x.dtype)
    total = np.empty(frames * pitch, x.dtype)
    for b in range(x.shape[0]):
        for g in range(groups):
            for start in range(0, time, frames):
                count = min(frames, time - start)
                seen = x[b, g * inputs : (g + 1) * inputs]
                _fill(memory, length, pitch, seen, start - front, count + reach, left, split)
                size = count * pitch
                row = total[:size]
                for r in range(rows):
                    c = g * channels + r // merge
                    for n in range(size):
                        row[n] = bias[c]
                    k = 0
                    while k + 4 <= taps:
                        w0, w1, w2, w3 = weight[g, r, k], weight[g, r, k + 1], weight[g, r, k + 2], weight[g, r, k + 3]
                        x0 = memory[offsets[k] : offsets[k] + size]
                        x1 = memory[offsets[k + 1] : offsets[k + 1] + size]
                        x2 = memory[offsets[k + 2] : offsets[k + 2] + size]
                        x3 = memory[offsets[k + 3] : offsets[k + 3] + size]
                        for n in range(size):
                            row[n] += w0 * x0[n] + w1 * x1[n] + (w2 * x2[n] + w3 * x3[n])
                        k += 4
                    while k < taps:
                        w0 = weight[g, r, k]
                        x0 = memory[offsets[k] : offsets[k] + size]
                        for n in range(size):
                            row[n] += w0 * x0[n]
                        k += 1
                    for t in range(count):
                        out = y[b, c, start + t]
                        if merge == 1:
                            frame = row[t * pitch + cut : t * pitch + cut + bins]
                            for f in range(bins):
                                out[f] = frame[f]
                        else:
                            first = (r - cut) % merge
                            frame = row[t * pitch + (first + cut) // merge :]
                            for n in range((bins - first + merge - 1) // merge):
                                out[first + n * merge] = frame[n]


@kernel
def correlate(x, y, offsets, pitch, frames, reach, front, left, split, weight):
    """Add to weight (groups, rows, taps), of doubles, its gradient, for x and the gradient y of `convolve` without
    `merge`."""
    groups, rows, taps = weight.shape
    time = y.shape[2]
    inputs = x.shape[1] // groups
    length = (frames + reach) * pitch
    memory = np.zeros(inputs * split * length + pitch, x.dtype)
    given = np.zeros(rows * frames * pitch, x.dtype)
    zero = x.dtype.type(0)
    for b in range(x.shape[0]):
        for g in range(groups):
            for start in range(0, time, frames):
                count = min(frames, time - start)
                seen = x[b, g * inputs : (g + 1) * inputs]
                _fill(memory, length, pitch, seen, start - front, count + reach, left, split)
                _fill(given, frames * pitch, pitch, y[b, g * rows : (g + 1) * rows], start, count, 0, 1)
                size = count * pitch
                for r in range(rows):
                    row = given[r * frames * pitch : r * frames * pitch + size]
                    k = 0
                    while k + 4 <= taps:
                        x0 = memory[offsets[k] : offsets[k] + size]
                        x1 = memory[offsets[k + 1] : offsets[k + 1] + size]
                        x2 = memory[offsets[k + 2] : offsets[k + 2] + size]
                        x3 = memory[offsets[k + 3] : offsets[k + 3] + size]
                        sum0 = sum1 = sum2 = sum3 = zero
                        for n in range(size):
                            sum0 += row[n] * x0[n]
                            sum1 += row[n] * x1[n]
                            sum2 += row[n] * x2[n]
                            sum3 += row[n] * x3[n]
                        weight[g, r, k] += sum0
                        weight[g, r, k + 1] += sum1
                        weight[g, r, k + 2] += sum2
                        weight[g, r, k + 3] += sum3
                        k += 4
                    while k < taps:
                        x0 = memory[offsets[k] : offsets[k] + size]
                        sum0 = zero
                        for n in range(size):
                            sum0 += row[n] * x0[n]
                        weight[g, r, k] += sum0
                        k += 1
