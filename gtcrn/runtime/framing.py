"""From a model of one hop to a stream of samples, with numpy alone: what every runtime has around its model.

A step is a callable with a past of its own and `reset()`, which forgets it. What it gives may be an array that its
next call overwrites.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from math import gcd
from typing import Protocol

import numpy as np

from gtcrn.errors import UserError

log = logging.getLogger(__name__)

# what a file may state: Hz, and samples
SIZES = {"sample_rate": (1000, 768000), "n_fft": (1, 2**16), "hop_length": (1, 2**16), "latency": (0, 2**20)}
LOUDEST = 10.0  # times full scale, as of files in gtcrn.data.audio: what is beyond is no sound


class Step(Protocol):
    """One hop: a float32 array -> one of the same shape, samples (1, hop_length) or a spectrum (1, F, 1, 2)."""

    def __call__(self, x: np.ndarray, /) -> np.ndarray: ...

    def reset(self) -> None: ...


class Runner(Protocol):
    """What runs a file as a stream."""

    sample_rate: int
    hop_length: int
    latency: int

    def process(self, samples: np.ndarray) -> np.ndarray: ...

    def reset(self) -> None: ...


class Framed:
    """A step of samples (1, hop_length) around one of spectra (1, F, 1, 2), F = n_fft // 2 + 1.

    Square-root Hann windows on the way in and out, and overlap-add: later by n_fft - hop_length samples.
    Raises UserError unless hop_length divides n_fft and is smaller.
    """

    def __init__(self, n_fft: int, hop_length: int, step: Step):
        if not 0 < hop_length < n_fft or n_fft % hop_length:
            raise UserError(f"hop_length={hop_length} must divide n_fft={n_fft} and be smaller")
        self.step, self._hop_length = step, hop_length
        self._window = np.sin(np.pi * np.arange(n_fft) / n_fft).astype(np.float32)
        # frames that overlap add up to the same constant everywhere
        self._synthesis_window = self._window * np.float32(2 * hop_length / n_fft)
        self._frame, self._overlap = np.zeros((2, n_fft), np.float32)
        self._spectrum = np.zeros((1, n_fft // 2 + 1, 1, 2), np.float32)
        self._bins = _complex(self._spectrum)

    def reset(self) -> None:
        self._frame.fill(0)
        self._overlap.fill(0)
        self.step.reset()

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        hop, frame, overlap = self._hop_length, self._frame, self._overlap
        frame[:-hop] = frame[hop:]
        frame[-hop:] = samples[0]
        self._bins[:] = np.fft.rfft(frame * self._window)
        enhanced = np.fft.irfft(_complex(self.step(self._spectrum)), len(frame))
        overlap[:-hop] = overlap[hop:]
        overlap[-hop:] = 0
        overlap += enhanced * self._synthesis_window
        return overlap[None, :hop]


def sizes(metadata: Mapping[str, str | int]) -> dict[str, int]:
    """Return the numbers of `SIZES` that a file states, in their order.

    Raises UserError for one that is missing, no whole number, or one that no model has.
    """
    numbers = {}
    for key, (lowest, highest) in SIZES.items():
        try:
            numbers[key] = int(metadata[key])
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            stated = str(metadata[key])[:50] if key in metadata else "not stated"
            raise UserError(f"{key}={stated}: must be a whole number") from error
        if not lowest <= numbers[key] <= highest:
            raise UserError(f"{key}={str(metadata[key])[:50]}: must lie between {lowest} and {highest}")
    return numbers


def framed(step: Step, metadata: Mapping[str, str | int]) -> tuple[Step, int, int, int]:
    """What a `Stream` is made of, from the step that a file holds and what its metadata says.

    Raises UserError as `sizes`.
    """
    sample_rate, n_fft, hop_length, latency = sizes(metadata).values()
    if metadata["kind"] == "spectrum":
        step = Framed(n_fft, hop_length, step)
    return step, sample_rate, hop_length, latency


class Stream:
    """Blocks of samples through a step of whole hops.

    sample_rate: Hz. latency: samples by which the output is later than the input, all that is inside the step
    included. block_length: None, and every call gives as many samples as whole hops are complete, the rest
    waits; or what every block is a multiple of (1: blocks of any size), and every call gives exactly as many
    samples as it was given, as an audio callback must: `latency` then grows by hop_length - gcd(hop_length,
    block_length), nothing where blocks are whole hops.
    silenced: how many samples were no sound so far, see `heard`.
    """

    def __init__(self, step: Step, sample_rate: int, hop_length: int, latency: int, block_length: int | None = None):
        if block_length is not None and block_length < 1:
            raise UserError(f"block_length={block_length}: must be at least 1, or None")
        self.sample_rate, self.hop_length, self.block_length = sample_rate, hop_length, block_length
        self.step = step
        self.silenced = 0
        self._ahead = hop_length - gcd(hop_length, block_length) if block_length else 0
        self.latency = latency + self._ahead
        self._begin()

    def _begin(self) -> None:
        self._pending = np.zeros(0, np.float32)  # less than a hop that waits for the rest
        self._ready = np.zeros(self._ahead, np.float32)  # enhanced, and not given out yet

    def reset(self) -> None:
        """Begins a new stream."""
        self.step.reset()
        self._begin()

    def process(self, samples: np.ndarray) -> np.ndarray:
        """The next (N,) samples, floating point in [-1, 1] -> (N',) float32, N' as told by `block_length`.

        All outputs together depend on the samples only, not on how they were cut. Samples that are no sound are heard
        as silence, see `heard`. Raises UserError, and forgets nothing, for another shape, integers, and blocks that
        are no multiple of `block_length`; and, upon which the stream begins anew, if the model fails or gives NaN.
        """
        samples = self.heard(samples)
        if self.block_length and len(samples) % self.block_length:
            raise UserError(
                f"block of {len(samples)} samples: this stream was told that all are multiples of "
                f"block_length={self.block_length}"
            )
        hop, step = self.hop_length, self.step
        hops = np.concatenate([self._pending, samples], dtype=np.float32, casting="same_kind")
        whole = len(hops) // hop * hop
        enhanced = np.empty(len(self._ready) + whole, np.float32)
        enhanced[: len(self._ready)] = self._ready
        try:
            for source, target in zip(range(0, whole, hop), range(len(self._ready), len(enhanced), hop)):
                enhanced[target : target + hop] = step(hops[None, source : source + hop])[0]
            if not np.isfinite(np.vdot(enhanced, enhanced)):  # several times faster than a look at each
                raise UserError("the model gives NaN or infinity: its file is damaged, or its training went wrong")
        except UserError:
            self.reset()  # its states hold NaN, or a part of the block
            raise
        # copies, lest a short rest keep a long block in memory
        self._pending = hops[whole:].copy()
        given = len(enhanced) if self.block_length is None else len(samples)
        self._ready = enhanced[given:].copy()
        return enhanced[:given]

    def heard(self, samples: np.ndarray) -> np.ndarray:
        """Return (N,) samples with zeros for those that are NaN, infinite or beyond `LOUDEST`.

        A model would never forget them: what follows is what follows a moment of silence. They are counted in
        `silenced`, and the first ones are told in the log. Raises UserError for another shape, and integers.
        """
        try:
            samples = np.asarray(samples)
        except (ValueError, TypeError, RuntimeError) as error:
            raise UserError(f"samples: {str(error).splitlines()[0]}; a stream takes an array (N,)") from error
        if samples.ndim != 1:
            raise UserError(
                f"samples of shape {samples.shape}: a stream takes one channel, (N,); "
                "give every channel a stream of its own"
            )
        if samples.dtype.kind != "f":
            raise UserError(
                f"samples of type {samples.dtype}: expected floating point in [-1, 1]; "
                "divide 16-bit integers by 32768 first"
            )
        if np.vdot(samples, samples) <= LOUDEST**2:  # so all of them are; of a short block this is the fastest look
            return samples
        sound = np.abs(samples) <= LOUDEST
        if sound.all():
            return samples
        if not self.silenced:
            log.warning(
                "samples that are NaN, infinite or over %g times full scale are heard as silence, the first: %g",
                LOUDEST,
                samples[~sound][0],
            )
        self.silenced += int(np.count_nonzero(~sound))
        return np.where(sound, samples, 0)


def _complex(spectrum: np.ndarray) -> np.ndarray:
    """A view: (1, F, 1, 2) float32 -> (F,) complex64."""
    return spectrum.reshape(-1).view(np.complex64)
