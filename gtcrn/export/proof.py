"""The proof of an exported file: its own runtime is compared with the PyTorch model, hop by hop over real audio."""

from __future__ import annotations

import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gtcrn.data import audio
from gtcrn.data.demo.noise import NOISES
from gtcrn.data.demo.speech import TALKERS, utterance
from gtcrn.data.seeding import generator
from gtcrn.dsp.snr import measured_snr
from gtcrn.errors import UserError
from gtcrn.models.enhancer import Enhancer
from gtcrn.runtime.eager import EnhancerStep
from gtcrn.runtime.framing import Runner

TOLERANCE = 1e-4  # of full scale
SECONDS = 5  # of audio
SHORTEST = 1
WARM_UP = 10  # hops before the clock is looked at


class Proof(NamedTuple):
    """The difference of a file from the PyTorch model, and its speed.

    error: largest difference, of full scale. frames: how many were compared. median_ms, p95_ms: CPU time of a hop on
    one thread. snr: of the model's output to the difference, dB.
    """

    error: float
    frames: int
    median_ms: float
    p95_ms: float
    snr: float


class Recording(NamedTuple):
    """A recording of noisy speech. wave: (N,) float32. name: what it is, in a few words."""

    wave: np.ndarray
    name: str


def recording(path: str | Path | None, sample_rate: int) -> Recording:
    """Return the first seconds of a file, or of speech in the demo's noises if there is none.

    Raises UserError for a file that can't be read, is silent, too short or at a rate below sample_rate, and if the
    demo can't speak here.
    """
    if path is None:
        try:
            return Recording(noisy_speech(sample_rate), f"{SECONDS} s of the demo's speech and noises")
        except UserError as error:
            raise UserError(f"{error}; or name a recording of noisy speech, audio=FILE") from error
    facts = audio.examine(path)
    if facts.problem:
        raise UserError(f"audio={path}: {facts.problem}; name a recording of noisy speech")
    if facts.rate < sample_rate:
        raise UserError(f"audio={path}: {facts.rate} Hz, but the model's rate is {sample_rate} Hz: name another")
    wave = audio.load(path, sample_rate, frames=SECONDS * sample_rate)
    wave = wave if wave.ndim == 1 else wave[:, 0].copy()
    if len(wave) < SHORTEST * sample_rate:
        seconds = len(wave) / sample_rate
        raise UserError(f"audio={path}: only {seconds:.2f} s long; at least {SHORTEST} s is needed")
    if np.abs(wave).max() < audio.SILENCE:
        raise UserError(f"audio={path}: silent in its first channel's first {SECONDS} s; name another recording")
    return Recording(wave, f"{len(wave) / sample_rate:.1f} s of {Path(path).name}")


def noisy_speech(sample_rate: int) -> np.ndarray:
    """Return (N,), a voice of the demo in several of its noises, one after the other, at 5 dB."""
    rng, frames = generator("proof", sample_rate), SECONDS * sample_rate
    clean = utterance(rng, TALKERS["test"][0], "en", frames, sample_rate)
    kinds = list(NOISES["test"].values())
    noise = np.concatenate([kind(rng, -(-frames // len(kinds)), sample_rate) for kind in kinds])[:frames]
    noise *= np.sqrt(np.sum(clean**2) / np.sum(noise**2)) * 10 ** (-5 / 20)
    noisy = clean + noise
    return (0.5 * noisy / np.abs(noisy).max()).astype(np.float32)


class Output(NamedTuple):
    """The output of a file for a recording.

    samples: (N,), without its latency. alone: those of the loudest hop where that is the first one. milliseconds:
    (hops,) of CPU time.
    """

    samples: np.ndarray
    alone: np.ndarray
    milliseconds: np.ndarray


def whole_hops(wave: np.ndarray, hop_length: int) -> np.ndarray:
    """Return the whole hops of (N,) as (hops, hop_length)."""
    return wave[: len(wave) // hop_length * hop_length].reshape(-1, hop_length)


def stream_hops(runner: Runner, hops: np.ndarray) -> Output:
    """Stream (hops, hop_length) through a file, one by one."""
    alone = runner.process(_loudest(hops)).copy()
    for hop in hops[:WARM_UP]:
        runner.process(hop)
    runner.reset()
    pieces, times = [], []
    for hop in hops:
        begin = time.process_time()  # what else the machine does is no property of the file
        pieces.append(runner.process(hop))
        times.append(1e3 * (time.process_time() - begin))
    return Output(np.concatenate(pieces)[runner.latency :], alone, np.array(times))


def prove(output: Output, enhancer: Enhancer, hops: np.ndarray, exact: bool = True) -> Proof:
    """Compare the output of a file for (hops, hop_length) with that of the PyTorch model.

    exact: False for integers, whose difference is stated and not judged here; see `gtcrn.export.check`. Raises
    UserError, which names the frame and the likely cause, if others differ by more than TOLERANCE.
    """
    expected = EnhancerStep(enhancer)(hops.reshape(1, -1))[0, enhancer.latency :]
    differences = output.samples - expected
    errors = _by_frame(np.abs(differences), enhancer.hop_length)
    if exact and not errors.max() <= TOLERANCE:  # also if it is no number
        raise UserError(f"{_difference(errors)}; likely cause: {_cause(output.alone, enhancer, hops)}")
    times = map(float, np.percentile(output.milliseconds, (50, 95)))
    return Proof(float(errors.max()), len(errors), *times, measured_snr(output.samples, expected))


def _by_frame(differences: np.ndarray, hop_length: int) -> np.ndarray:
    """Return the largest difference of every hop."""
    return np.maximum.reduceat(differences, np.arange(0, len(differences), hop_length))


def _difference(errors: np.ndarray) -> str:
    first, of = np.argmax(~(errors <= TOLERANCE)), f"of {len(errors)}"
    if np.isnan(errors).any():
        return f"it gives what is no number from frame {first} {of} on"
    return (
        f"it differs from the PyTorch model by {errors.max():.2g} in frame {errors.argmax()} {of}, for the first time "
        f"too much in frame {first}; at most {TOLERANCE:g} is allowed"
    )


def _loudest(hops: np.ndarray) -> np.ndarray:
    return hops[np.abs(hops).max(axis=1).argmax()]


def _cause(alone: np.ndarray, enhancer: Enhancer, hops: np.ndarray) -> str:
    """Return the likely cause, by the hop for which every state still has its first value."""
    if not len(alone):
        return "an operator that was converted wrongly, or a state that is not handed on rightly"
    if np.abs(alone - EnhancerStep(enhancer)(_loudest(hops)[None])[0]).max() <= TOLERANCE:
        return "a state that is not handed on rightly, since a frame alone is right"
    return "an operator that was converted wrongly, since a frame alone is wrong already"
