"""Denoisers as functions of whole waves.

A denoiser is any callable that maps (N,) float32 to (N,) float32 at the sample rate it was built for: deterministic,
without memory from one wave to the next, picklable, and usable in worker processes. `gtcrn.dsp.gate.SpectralGate` is
one too; `gtcrn.dsp.alignment.Aligned` removes their delay.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch

from gtcrn.data import audio
from gtcrn.dsp.alignment import Denoise
from gtcrn.errors import UserError
from gtcrn.models.pretrained import load
from gtcrn.runtime.denoiser import Denoiser


@contextmanager
def _one_thread() -> Iterator[None]:
    """Run torch on one thread: in a forked process more would deadlock, and elsewhere they would round differently."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class ModelDenoiser:
    """A denoiser of waves (N,) float32 whose model has a sample rate of its own.

    open_model: returns a function that denoises one wave, and its rate in Hz. It is called here, so that a bad file
        is found now, and again in every other process that denoises, since threads and sessions do not survive a
        fork. Only `open_model` is pickled.
    sample_rate: of the waves, in Hz. If the model's own is lower, the denoiser removes everything above half of it.
    """

    def __init__(self, open_model: Callable[[], tuple[Denoise, int]], sample_rate: int):
        self.open_model, self.sample_rate = open_model, sample_rate
        self._open()

    def _open(self) -> None:
        with _one_thread():
            self._denoise, self.model_rate = self.open_model()
        self._process = os.getpid()

    def __call__(self, wave: np.ndarray) -> np.ndarray:
        if self._process != os.getpid():
            self._open()
        with _one_thread():
            denoised = self._denoise(audio.resample(wave, self.sample_rate, self.model_rate))
        denoised = audio.resample(denoised, self.model_rate, self.sample_rate)
        return np.pad(denoised, (0, max(0, len(wave) - len(denoised))))[: len(wave)]  # lengths were rounded

    def __getstate__(self) -> dict:
        return {"open_model": self.open_model, "sample_rate": self.sample_rate, "_process": None}


def enhancer(ckpt: str | None, sample_rate: int = 48000, trust: bool = False) -> ModelDenoiser:
    """Return a denoiser that enhances whole waves by a checkpoint of this framework or a published one.

    trust: see `gtcrn.load`. Raises UserError if the checkpoint can't be loaded.
    """
    if ckpt is None:
        raise UserError(
            "data.denoiser.ckpt is not set: give a checkpoint of ours or a published one, data.denoiser.ckpt=FILE"
        )
    return ModelDenoiser(partial(_open_enhancer, ckpt, trust), sample_rate)


def _open_enhancer(ckpt: str, trust: bool) -> tuple[Denoise, int]:
    model = load(ckpt, trust=trust)

    @torch.inference_mode()
    def denoise(wave: np.ndarray) -> np.ndarray:
        return model(torch.tensor(wave)[None])[0][0].numpy()

    return denoise, model.sample_rate


def onnx(
    path: str | None, sample_rate: int = 48000, model_rate: int = 16000, n_fft: int = 512, hop_length: int = 256
) -> ModelDenoiser:
    """Return a denoiser that streams waves through an exported model, whose output is late by its latency as in a call.

    model_rate, n_fft, hop_length: Hz and samples, for files whose metadata does not state them. Raises UserError as
    `gtcrn.runtime.Denoiser` does.
    """
    if path is None:
        raise UserError("data.denoiser.path is not set: give an ONNX file, data.denoiser.path=FILE")
    return ModelDenoiser(partial(_open_onnx, path, model_rate, n_fft, hop_length), sample_rate)


def _open_onnx(path: str, model_rate: int, n_fft: int, hop_length: int) -> tuple[Denoise, int]:
    stream = Denoiser(path, model_rate, n_fft, hop_length)

    def denoise(wave: np.ndarray) -> np.ndarray:
        stream.reset()
        return stream.process(np.pad(wave, (0, -len(wave) % stream.hop_length)))[: len(wave)]

    return denoise, stream.sample_rate


def deepfilternet(
    model: str = "DeepFilterNet3",
    post_filter: bool = False,
    attenuation_limit_db: float | None = None,
    sample_rate: int = 48000,
) -> ModelDenoiser:
    """Return DeepFilterNet (Schröter et al.) as a denoiser, by its authors' package.

    model: DeepFilterNet, DeepFilterNet2 or DeepFilterNet3, whose weights the package downloads from its GitHub
        repository into the user's cache folder the first time, or a folder with `config.ini` and `checkpoints/`.
    post_filter: attenuate very noisy parts a little more.
    attenuation_limit_db: the most by which noise is attenuated; None for no limit.

    Raises UserError without the package, or if the weights can't be loaded.
    """
    return ModelDenoiser(partial(_open_deepfilternet, model, post_filter, attenuation_limit_db), sample_rate)


def _open_deepfilternet(model: str, post_filter: bool, attenuation_limit_db: float | None) -> tuple[Denoise, int]:
    try:
        from df.enhance import enhance, init_df
    except ImportError as error:
        raise UserError(
            f"data/denoiser=deepfilternet: its package is missing or does not fit ({error}); in Python 3.11 or older: "
            "pip install deepfilternet 'torch<2.9' 'torchaudio<2.9'"
        ) from error
    os.environ["DEVICE"] = "cpu"  # the package has no other switch, and a forked worker can't use a GPU
    try:
        network, state, _ = init_df(model, post_filter, log_level="ERROR", log_file=None)
    except (Exception, SystemExit) as error:  # the package exits the process when a download fails
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise UserError(
            f"data.denoiser.model={model}: can't be loaded ({reason}); name DeepFilterNet, DeepFilterNet2 or "
            "DeepFilterNet3, downloaded from github.com once, or a folder with config.ini and checkpoints/"
        ) from error

    @torch.inference_mode()
    def denoise(wave: np.ndarray) -> np.ndarray:
        return enhance(network, state, torch.tensor(wave)[None], atten_lim_db=attenuation_limit_db)[0].numpy()

    return denoise, state.sr()
