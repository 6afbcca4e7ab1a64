"""Streams of samples through models of one hop, in numpy alone; every runtime has them around its model.

A step is a callable with a state, and `reset()`, which clears it. The array that it returns may be overwritten by its
next call.
"""

from __future__ import annotations

import logging
from math import gcd
from typing import Protocol

import numpy as np

from gtcrn.dsp.attenuation import AttenuationLimit
from gtcrn.dsp.window import analysis_window, synthesis_window
from gtcrn.errors import UserError
from gtcrn.runtime.facts import WAVE, Signal

log = logging.getLogger(__name__)

LOUDEST = 10.0  # times full scale, as for files in gtcrn.data.audio: samples beyond are invalid


class Step(Protocol):
    """A model that maps one hop to one of the same shape, float32 samples (1, hop_length) or spectrum (1, F, 1, 2)."""

    def __call__(self, x: np.ndarray, /) -> np.ndarray: ...

    def reset(self) -> None: ...


class Runner(Protocol):
    """A stream through a model, as every runtime offers it."""

    sample_rate: int
    hop_length: int
    latency: int

    def process(self, samples: np.ndarray) -> np.ndarray: ...

    def reset(self) -> None: ...


class STFTStep:
    """A step of samples (1, hop_length) that runs a step of spectra (1, F, 1, 2), F = n_fft // 2 + 1, within an STFT.

    window: one of `gtcrn.dsp.window.WINDOWS`. Overlap-add delays the output by n_fft - hop_length samples.
    Raises UserError for another window, and if hop_length is more than half of n_fft.
    """

    def __init__(self, n_fft: int, hop_length: int, step: Step, window: str = "hann_sqrt"):
        self.step, self._hop_length = step, hop_length
        before = analysis_window(window, n_fft)
        self.window = before.astype(np.float32)
        self._synthesis_window = synthesis_window(before, hop_length).astype(np.float32)
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
        self._bins[:] = np.fft.rfft(frame * self.window)
        enhanced = np.fft.irfft(_complex(self.step(self._spectrum)), len(frame))
        overlap[:-hop] = overlap[hop:]
        overlap[-hop:] = 0
        overlap += enhanced * self._synthesis_window
        return overlap[None, :hop]


def stream_arguments(step: Step, signal: Signal) -> tuple[Step, int, int, int]:
    """Return the arguments of a `Stream` through the step of a file with this signal.

    step: of samples if that is the signal's kind, else of spectra. Raises UserError as `STFTStep` does.
    """
    if signal.kind != WAVE:
        step = STFTStep(signal.n_fft, signal.hop_length, step, signal.window)
    return step, signal.sample_rate, signal.hop_length, signal.latency


class Stream:
    """A stream of blocks of samples through a step of whole hops.

    sample_rate: in Hz. latency: samples by which the output is later than the input, the step's own delay included.
    block_length: with None, every call returns the samples of the hops that are complete, and the rest waits. With a
        number, of which every block is a multiple (1: blocks of any size), every call returns exactly as many samples
        as it is given, as an audio callback must; `latency` then grows by hop_length - gcd(hop_length, block_length),
        which is 0 where blocks are whole hops.
    attenuation_limit_db: the most that is taken away, in dB: the noisy signal, as late as the enhanced one, is mixed
        into it, see `gtcrn.dsp.attenuation`. 0 gives the noisy signal, None sets no limit. It may be set between two
        blocks, or by another thread: the mix moves to it within the next hop.
    invalid_samples: count of the samples that were replaced so far, see `replace_invalid`.
    """

    def __init__(
        self,
        step: Step,
        sample_rate: int,
        hop_length: int,
        latency: int,
        block_length: int | None = None,
        attenuation_limit_db: float | None = None,
    ):
        if block_length is not None and block_length < 1:
            raise UserError(f"block_length={block_length}: must be at least 1, or None")
        self.sample_rate, self.hop_length, self.block_length = sample_rate, hop_length, block_length
        self.step = step
        self.invalid_samples = 0
        self._limit = AttenuationLimit(attenuation_limit_db, hop_length)
        self._delay = latency  # of the step's output
        self._ahead = hop_length - gcd(hop_length, block_length) if block_length else 0
        self.latency = latency + self._ahead
        self._begin()

    def _begin(self) -> None:
        self._noisy = np.zeros(self._delay, np.float32)  # the latest samples, then those that wait for their hop
        self._ready = np.zeros(self._ahead, np.float32)  # enhanced samples that are not returned yet

    @property
    def attenuation_limit_db(self) -> float | None:
        return self._limit.decibels

    @attenuation_limit_db.setter
    def attenuation_limit_db(self, decibels: float | None) -> None:
        self._limit.decibels = decibels

    def reset(self) -> None:
        """Begin a new stream."""
        self.step.reset()
        self._limit.reset()
        self._begin()

    def process(self, samples: np.ndarray) -> np.ndarray:
        """Enhance the next (N,) samples, floating point in [-1, 1]; return (N',) float32, N' as `block_length` says.

        The whole output depends on the samples alone, not on how they are cut into blocks. Invalid samples count as
        silence, see `replace_invalid`.

        Raises UserError for another shape, integers, and blocks that are no multiple of `block_length`, which leaves
        the stream as it was; and if the model fails or its output is not finite, which begins a new stream.
        """
        samples = self.replace_invalid(samples)
        if self.block_length and len(samples) % self.block_length:
            raise UserError(
                f"block of {len(samples)} samples: this stream was told that all are multiples of "
                f"block_length={self.block_length}"
            )
        hop, step = self.hop_length, self.step
        noisy = np.concatenate([self._noisy, samples], dtype=np.float32, casting="same_kind")
        hops = noisy[self._delay :]
        whole = len(hops) // hop * hop
        enhanced = np.empty(len(self._ready) + whole, np.float32)
        enhanced[: len(self._ready)] = self._ready
        try:
            for source, target in zip(range(0, whole, hop), range(len(self._ready), len(enhanced), hop)):
                enhanced[target : target + hop] = step(hops[None, source : source + hop])[0]
            if not np.isfinite(np.vdot(enhanced, enhanced)):  # several times faster than checking each sample
                raise UserError("the model gives NaN or infinity: its file is damaged, or its training went wrong")
        except UserError:
            self.reset()  # the states hold NaN, or a part of the block
            raise
        if whole and self._limit.active:
            self._limit.mix_into(enhanced[len(self._ready) :], noisy[:whole])
        # a view of a few samples would keep a long block in memory, so they are copied
        self._noisy = noisy[whole:].copy()
        returned = len(enhanced) if self.block_length is None else len(samples)
        self._ready = enhanced[returned:].copy()
        return enhanced[:returned]

    def flush(self) -> np.ndarray:
        """Return the (N,) samples that are still to come when the input has ended, and begin a new stream.

        They complete the output to the length of the input and `latency` samples more. Without its first `latency`
        samples the output is then as long as the input and aligned with it.
        """
        missing = self.latency + (0 if self.block_length else len(self._noisy) - self._delay)
        enough = missing + self.hop_length  # since `process` may hold back the samples of an incomplete hop
        block = self.block_length or 1
        rest = self.process(np.zeros(-(-enough // block) * block, np.float32))
        self.reset()
        return rest[:missing]

    def replace_invalid(self, samples: np.ndarray) -> np.ndarray:
        """Return (N,) samples with zeros for those that are NaN, infinite or beyond `LOUDEST`.

        They would stay in the model's states for ever. `invalid_samples` counts them, and a warning in the log names
        the first. Raises UserError for another shape, and integers.
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
        if np.vdot(samples, samples) <= LOUDEST**2:  # then each sample is valid; the fastest check of a short block
            return samples
        valid = np.abs(samples) <= LOUDEST
        if valid.all():
            return samples
        if not self.invalid_samples:
            log.warning(
                "samples that are NaN, infinite or over %g times full scale are heard as silence, the first: %g",
                LOUDEST,
                samples[~valid][0],
            )
        self.invalid_samples += int(np.count_nonzero(~valid))
        return np.where(valid, samples, 0)


def _complex(spectrum: np.ndarray) -> np.ndarray:
    """Return a complex view of a spectrum: (1, F, 1, 2) float32 -> (F,) complex64."""
    return spectrum.reshape(-1).view(np.complex64)
