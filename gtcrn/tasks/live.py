"""task=live: from the microphone through a model to the headphones."""

from __future__ import annotations

import logging
import math
import sys
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np
from omegaconf import DictConfig

from gtcrn.errors import UserError
from gtcrn.export.optimize import optimized
from gtcrn.runtime import eager
from gtcrn.runtime.denoiser import Denoiser
from gtcrn.runtime.framing import Stream
from gtcrn.runtime.resampling import Resampled
from gtcrn.tasks.building import configure_torch, is_exported, load_float

log = logging.getLogger(__name__)

SHOWN_EVERY = 0.1  # seconds
PATIENCE = 3.0  # seconds without a block after which the device counts as gone, since not every system reports it
QUIETEST, WIDTH = -60, 20  # lowest level of the meters in dBFS, their width in characters


def run(cfg: DictConfig) -> None:
    sounddevice = import_sounddevice()
    try:
        if cfg.devices:
            print(sounddevice.query_devices())
        else:
            configure_torch(cfg)
            play(cfg, sounddevice, open_model(cfg))
    except sounddevice.PortAudioError as error:
        raise UserError(f"the sound device failed: {error}; devices=list shows what there is") from error


def import_sounddevice() -> Any:
    try:
        import sounddevice
    except ImportError as error:
        raise UserError("task=live needs the package sounddevice: pip install -e '.[live]'") from error
    except OSError as error:  # the package is installed, the library that it calls is not
        raise UserError(
            f"task=live: {error}; install PortAudio, e.g. apt install libportaudio2, or brew install portaudio"
        ) from error
    return sounddevice


def open_model(cfg: DictConfig) -> Callable[..., Stream]:
    """Return a function, block_length -> a new stream, of the model of `ckpt=`."""
    if is_exported(cfg):
        return Denoiser(cfg.ckpt, attenuation_limit_db=cfg.attenuation_limit_db).stream
    return partial(eager.open_stream, optimized(load_float(cfg)), attenuation_limit_db=cfg.attenuation_limit_db)


def play(cfg: DictConfig, sounddevice: Any, open_stream: Callable[..., Stream]) -> None:
    """Play until Ctrl-C, the end of `seconds` or the loss of a device, and log a summary.

    Raises UserError if the devices are missing or are lost.
    """
    microphone, headphones = (choose(sounddevice, kind, cfg[f"{kind}_device"]) for kind in ("input", "output"))
    channels = min(2, microphone["max_input_channels"]), min(2, headphones["max_output_channels"])
    stream = open_stream()
    rate = cfg.device_rate or common_rate(sounddevice, microphone, headphones, channels, stream.sample_rate)
    block = cfg.block or round(stream.hop_length * rate / stream.sample_rate)
    resampled = rate != stream.sample_rate
    callback = Callback(Resampled(stream, rate) if resampled else open_stream(block), cfg.bypass)
    with sounddevice.Stream(
        samplerate=rate,
        blocksize=block,
        device=(microphone["index"], headphones["index"]),
        channels=channels,
        dtype="float32",
        latency="low",
        callback=callback,
    ) as sound:
        delay = 1000 * (sum(sound.latency) + callback.stream.latency / rate)
        log.info("%s -> %s at %d Hz, later by %.0f ms", microphone["name"], headphones["name"], rate, delay)
        if sys.stdin.isatty():
            log.info(
                "Enter switches the model off and on; a number of dB limits what it takes away, null lifts the limit; "
                "Ctrl-C ends"
            )
            threading.Thread(target=control, args=(callback, sys.stdin), daemon=True).start()
        with suppress(KeyboardInterrupt):
            watch(sound, callback, cfg.seconds)
        gone = not is_alive(sound, callback)
        log.info("%s", callback.summary())
    if gone:
        raise UserError(
            f"{microphone['name']} -> {headphones['name']}: no more sound comes or goes; was a device taken away? "
            "devices=list shows what there is"
        )


def choose(sounddevice: Any, kind: str, wanted: int | str | None) -> dict:
    """Return the device of this number or with this text in its name. kind: input or output.

    Raises UserError if none fits, or several do.
    """
    if wanted is None:
        with suppress(ValueError, sounddevice.PortAudioError):
            return sounddevice.query_devices(kind=kind)
    fitting = [device for device in sounddevice.query_devices() if device[f"max_{kind}_channels"]]
    if not fitting:
        raise UserError(f"no {kind} device was found: plug one in, or see whether this system lets programs use it")
    names = ", ".join(f"{device['index']} {device['name']}" for device in fitting)
    if wanted is None:
        raise UserError(f"the system has no default {kind} device; give {kind}_device=…, of these: {names}")
    chosen = [device for device in fitting if wanted in (device["index"], device["name"])] or [
        device for device in fitting if str(wanted).lower() in device["name"].lower() and type(wanted) is str
    ]
    if len(chosen) != 1:
        fits = "several devices" if chosen else "no device"
        raise UserError(f"{kind}_device={wanted}: fits {fits}; give a number of these: {names}")
    return chosen[0]


def common_rate(sounddevice: Any, microphone: dict, headphones: dict, channels: tuple[int, int], rate: int) -> int:
    """Return this rate if both devices support it, else the default rate of the output."""
    try:
        sounddevice.check_input_settings(microphone["index"], channels[0], "float32", samplerate=rate)
        sounddevice.check_output_settings(headphones["index"], channels[1], "float32", samplerate=rate)
    except sounddevice.PortAudioError:
        return round(headphones["default_samplerate"])
    return rate


class Callback:
    """A callback of the sound system, which runs the first channel of every block through a stream to all outputs.

    Nothing stops the sound: a block at which the stream fails is passed on as it is, and the stream is reset.
    Blocks that the system lost are counted.

    stream: blocks in and out have the same length. bypass: play the microphone itself; it may change at any time,
    and the model keeps running.
    """

    def __init__(self, stream: Stream | Resampled, bypass: bool = False):
        self.stream, self.bypass = stream, bypass
        self.blocks = self.frames = self.late = self.overruns = self.underruns = self.failures = 0
        self.busy = self.longest = 0.0  # processing time in s, of all blocks and of the slowest
        self.failure = ""
        self.last_call = time.monotonic()
        self._begin_meter()

    def _begin_meter(self) -> None:
        self._peaks, self._recent = [0.0, 0.0], (0.0, 1.0)

    def __call__(self, indata: np.ndarray, outdata: np.ndarray, frames: int, clock: Any, status: Any) -> None:
        """Fill outdata from indata, (frames, channels) float32. status: flags of what was lost before this block."""
        began = time.perf_counter()
        noisy = self.stream.replace_invalid(indata[:, 0])
        try:
            enhanced = self.stream.process(noisy)
            outdata[:] = (noisy if self.bypass else enhanced)[:, None]
        except Exception as error:
            self.failures += 1
            self.failure = f"{type(error).__name__}: {error}"
            outdata[:] = noisy[:, None]
            self.stream.reset()
        self.overruns += status.input_overflow
        self.underruns += status.output_underflow
        self._count(noisy, outdata, time.perf_counter() - began)

    def _count(self, noisy: np.ndarray, outdata: np.ndarray, seconds: float) -> None:
        due = len(noisy) / self.stream.sample_rate
        self.blocks, self.frames = self.blocks + 1, self.frames + len(noisy)
        self.late += seconds > due
        self.busy, self.longest = self.busy + seconds, max(self.longest, seconds)
        self._peaks = [max(p, float(np.abs(x).max(initial=0))) for p, x in zip(self._peaks, (noisy, outdata))]
        self._recent = max(self._recent, (seconds, due))
        self.last_call = time.monotonic()

    def meter(self) -> str:
        """Return a line: peaks and longest processing time since the last call, and all losses."""
        (before, after), (seconds, due) = self._peaks, self._recent
        self._begin_meter()
        return (
            f"in {_bar(before)}  out {_bar(after)}  {1000 * seconds:4.1f} ms of {1000 * due:.1f} "
            f"({seconds / due:4.0%})  {self._losses()}{'  bypass' if self.bypass else ''}"
        )

    def summary(self) -> str:
        played = self.frames / self.stream.sample_rate
        failure = f" (the last: {self.failure})" if self.failures else ""
        if self.stream.invalid_samples:
            failure += f", samples that were no sound {self.stream.invalid_samples}"
        return (
            f"{played:.1f} s in {self.blocks} blocks; processing took {self.busy / max(played, 1e-9):.1%} of the time, "
            f"{1000 * self.longest:.1f} ms at most, too long {self.late} times; {self._losses()}{failure}"
        )

    def _losses(self) -> str:
        return f"overruns {self.overruns}, underruns {self.underruns}, failures {self.failures}"


def _bar(peak: float) -> str:
    level = 20 * math.log10(max(peak, 1e-5))
    filled = min(WIDTH, max(0, round(WIDTH * (1 - level / QUIETEST))))
    return f"[{'#' * filled:<{WIDTH}}] {level:4.0f} dB"


def control(callback: Callback, lines: Iterable[str]) -> None:
    """Obey lines, e.g. from the keyboard: an empty one switches the model off and on, others set the limit in dB."""
    for line in map(str.strip, lines):
        if not line:
            callback.bypass = not callback.bypass
            continue
        try:
            callback.stream.attenuation_limit_db = None if line == "null" else float(line)
        except ValueError as error:  # of float, or of the limit
            log.warning("%s; type a number of dB, null for no limit, or Enter alone", error)


def watch(sound: Any, callback: Callback, seconds: float | None) -> None:
    """Wait until the sound ends or `seconds` are over, and show the meter if there is a terminal."""
    end = math.inf if seconds is None else time.monotonic() + seconds
    while is_alive(sound, callback) and time.monotonic() < end:
        time.sleep(SHOWN_EVERY)
        if sys.stderr.isatty():
            print(f"\r{callback.meter()}", end="\x1b[K", file=sys.stderr, flush=True)
    if sys.stderr.isatty():
        print(file=sys.stderr)


def is_alive(sound: Any, callback: Callback) -> bool:
    return sound.active and time.monotonic() - callback.last_call < PATIENCE
