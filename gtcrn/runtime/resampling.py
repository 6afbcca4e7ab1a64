"""Streams at another sample rate with a low delay, in numpy alone.

soxr's streams are made for throughput and delay by 31 ms and more on the way to 16 kHz and back; these delay by 3 ms.
"""

from __future__ import annotations

from math import ceil, gcd

import numpy as np

from gtcrn.runtime.framing import Stream

ZERO_CROSSINGS = 24  # of the filter's impulse response, on either side
ROLLOFF, KAISER_BETA = 0.9, 9.0  # flat to 0.8 of the lower rate's half, 90 dB down from that half on


class Resampler:
    """A windowed-sinc resampler of blocks (N,) float32 at from_rate, which returns the samples known so far at to_rate.

    Output k is the signal at the time k / to_rate. held_back: seconds of input after that time that it needs.
    """

    def __init__(self, from_rate: int, to_rate: int):
        divisor = gcd(from_rate, to_rate)
        self._up, self._down = to_rate // divisor, from_rate // divisor
        scale = min(1.0, to_rate / from_rate)
        half = ceil(ZERO_CROSSINGS / scale)
        self.held_back = half / from_rate
        # one row of taps for each position that an output can have between two input samples
        times = np.arange(1 - half, half + 1) - np.arange(self._up)[:, None] / self._up
        window = np.i0(KAISER_BETA * np.sqrt(np.maximum(0, 1 - (times / half) ** 2))) / np.i0(KAISER_BETA)
        taps = window * np.sinc(ROLLOFF * scale * times)
        self._taps = (taps / taps.sum(axis=1, keepdims=True)).astype(np.float32)
        self.reset()

    def reset(self) -> None:
        self._past = np.zeros(self._taps.shape[1] // 2 - 1, np.float32)
        self._next = 0  # where the next window begins after the start of the past, in 1 / up of a sample

    def process(self, samples: np.ndarray) -> np.ndarray:
        signal = np.concatenate([self._past, samples])
        n_windows = len(signal) - self._taps.shape[1] + 1
        positions = np.arange(self._next, max(0, n_windows) * self._up, self._down)
        self._next += len(positions) * self._down
        if not len(positions):
            self._past = signal
            return np.zeros(0, np.float32)
        windows = np.lib.stride_tricks.sliding_window_view(signal, self._taps.shape[1])
        output = np.einsum("nt,nt->n", windows[positions // self._up], self._taps[positions % self._up])
        done = min(self._next // self._up, len(signal))
        self._next -= done * self._up
        self._past = signal[done:].copy()
        return output


class Resampled:
    """A stream whose input and output have another sample rate; it returns as many samples as each block of any size.

    sample_rate: in Hz. latency: samples at this rate by which the output is later than the input.
    """

    def __init__(self, stream: Stream, sample_rate: int):
        self._stream, self.sample_rate = stream, sample_rate
        rates = sample_rate, stream.sample_rate
        self._in, self._out = Resampler(*rates), Resampler(*rates[::-1])
        # seconds that may wait for the filters, and in the stream for the rest of a hop
        waiting = self._in.held_back + self._out.held_back + (stream.hop_length + 1) / stream.sample_rate
        self._ahead = ceil(waiting * sample_rate) + 1
        self.latency = self._ahead + round(stream.latency * sample_rate / stream.sample_rate)
        self.reset()

    def reset(self) -> None:
        """Begin a new stream."""
        for part in (self._in, self._stream, self._out):
            part.reset()
        self._ready = np.zeros(self._ahead, np.float32)

    @property
    def attenuation_limit_db(self) -> float | None:
        """The limit of the stream inside, in dB: what is mixed in has been resampled too."""
        return self._stream.attenuation_limit_db

    @attenuation_limit_db.setter
    def attenuation_limit_db(self, decibels: float | None) -> None:
        self._stream.attenuation_limit_db = decibels

    @property
    def invalid_samples(self) -> int:
        return self._stream.invalid_samples

    def replace_invalid(self, samples: np.ndarray) -> np.ndarray:
        """Return the samples as `Stream.replace_invalid` does."""
        return self._stream.replace_invalid(samples)

    def process(self, samples: np.ndarray) -> np.ndarray:
        """Enhance the next samples, (N,) -> (N,) float32. Raises UserError as `Stream.process` does."""
        samples = self.replace_invalid(samples)  # before the filter, which would spread them
        enhanced = self._out.process(self._stream.process(self._in.process(samples)))
        ready = np.concatenate([self._ready, enhanced])
        self._ready = ready[len(samples) :].copy()
        return ready[: len(samples)]
