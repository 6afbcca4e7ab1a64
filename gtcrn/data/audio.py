"""Audio files in and out: wav, flac, ogg and mp3 through libsndfile, resampling through soxr.

Waves are float32 in [-1, 1], shaped (N,) for one channel and (N, C) for more.
"""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from math import ceil, gcd
from pathlib import Path

import numpy as np
import soundfile
import soxr

from gtcrn.errors import UserError

SUFFIXES = (".wav", ".flac", ".ogg", ".mp3")
SILENCE = 1e-4  # a file whose peak stays below this (-80 dBFS) holds nothing but dither

_UNREADABLE, _UNWRITABLE = "not readable as audio", "can't be written"
_BLOCK = 2**16  # frames; libsndfile's Vorbis encoder overflows its stack when given minutes at once


def is_audio(path: Path) -> bool:
    """Whether the name is that of an audio file; hidden ones (`._p226_001.wav` of macOS) are not."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


@contextmanager
def _naming(path: str | Path, failure: str) -> Iterator[None]:
    """Turns the errors of libsndfile and the file system into one that names the file."""
    try:
        yield
    except (soundfile.LibsndfileError, TypeError, OSError) as error:
        reason = getattr(error, "error_string", None) or str(error)
        if failure == _UNREADABLE and not Path(path).exists():
            reason = "no such file"
        raise UserError(f"{path}: {failure}: {reason.rstrip('.')}") from error


def info(path: str | Path):
    """The header: an object with `frames`, `samplerate`, `channels`, `format`, `subtype`, `duration`."""
    with _naming(path, _UNREADABLE):
        return soundfile.info(str(path))


def read(path: str | Path, start: int = 0, frames: int = -1) -> tuple[np.ndarray, int]:
    """Decodes `frames` frames (to the end when negative) from frame `start` on, and only those.

    Returns the wave, (N,) or (N, C) float32, and its rate in Hz. N is below `frames` at the file's end.
    """
    with _naming(path, _UNREADABLE):
        return soundfile.read(str(path), frames=frames, start=start, dtype="float32")


def load(path: str | Path, sample_rate: int, start: int = 0, frames: int = -1) -> np.ndarray:
    """As `read`, but at `sample_rate`, in which `start` and `frames` count too.

    From a file at another rate this is the same part of the wholly resampled file (to 1e-6 of full scale),
    though only that part, with 20 ms on either side for the filter, is decoded and resampled.
    """
    rate = info(path).samplerate
    if rate == sample_rate:
        return read(path, start, frames)[0]
    # Both rates' sample grids coincide every `period` samples: the part must begin on such a point.
    divisor = gcd(rate, sample_rate)
    period, source_period = sample_rate // divisor, rate // divisor
    margin = ceil(0.02 * sample_rate / period)
    first = max(0, start // period - margin)
    if frames < 0:
        source_frames = -1
    else:
        source_frames = (ceil((start + frames) / period) + margin - first) * source_period
    wave = resample(read(path, first * source_period, source_frames)[0], rate, sample_rate)
    wave = wave[start - first * period :]
    return wave if frames < 0 else wave[:frames]


@contextmanager
def writing(
    path: str | Path, sample_rate: int, channels: int = 1, subtype: str | None = None
) -> Iterator[soundfile.SoundFile]:
    """Opens a file to be written piece by piece: `with writing(...) as file: file.write(chunk)`.

    The file appears under its name, whole, when the block ends without an error, and not at all otherwise.
    The suffix gives the format; a `subtype` (e.g. of the file the audio came from) is kept where the format
    has it, else the format's own default is taken.
    """
    path = Path(path)
    file_format = path.suffix[1:].upper()
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"{path}: audio is written as {', '.join(SUFFIXES)}, so give it one of these suffixes")
    if subtype not in soundfile.available_subtypes(file_format):
        subtype = soundfile.default_subtype(file_format)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        with _naming(path, _UNWRITABLE):
            path.parent.mkdir(parents=True, exist_ok=True)
            file = soundfile.SoundFile(partial, "w", sample_rate, channels, subtype, format=file_format)
        with file:
            yield file
        os.replace(partial, path)
    finally:
        with suppress(OSError):  # the folder itself may be what is wrong
            partial.unlink()


def write(path: str | Path, wave: np.ndarray, sample_rate: int, subtype: str | None = None) -> None:
    """Writes a whole wave, (N,) or (N, C), atomically; see `writing`. Integer formats clip at full scale."""
    channels = 1 if wave.ndim == 1 else wave.shape[1]
    with _naming(path, _UNWRITABLE), writing(path, sample_rate, channels, subtype) as file:
        for start in range(0, len(wave), _BLOCK):
            file.write(wave[start : start + _BLOCK])


def resampled_length(frames: int, from_rate: int, to_rate: int) -> int:
    """How many frames `resample` gives."""
    return (2 * frames * to_rate + from_rate) // (2 * from_rate)  # rounded, in exact integers


def resample(wave: np.ndarray, from_rate: int, to_rate: int) -> np.ndarray:
    """The whole signal, (N,) or (N, C), at another rate: linear phase, aligned, soxr's high quality."""
    if from_rate == to_rate:
        return wave
    length = resampled_length(len(wave), from_rate, to_rate)
    wave = soxr.resample(wave, from_rate, to_rate, quality="HQ")[:length]
    return np.pad(wave, [(0, length - len(wave))] + [(0, 0)] * (wave.ndim - 1))


def check(path: str | Path, lowest_rate: int | None = None) -> str | None:
    """What is wrong with a file of mono audio, in a few words without its name; None if nothing is.

    Decodes all of it, in constant memory. `lowest_rate` in Hz: a file below it has lost part of the band, so
    resampling can't mend it.
    """
    try:
        header = info(path)
        if header.channels != 1:
            return f"{header.channels} channels where mono is needed"
        if lowest_rate and header.samplerate < lowest_rate:
            return f"wrong rate: {header.samplerate} Hz where at least {lowest_rate} Hz is needed"
        if header.frames == 0:
            return "empty"
        peak, frames = 0.0, 0
        with _naming(path, _UNREADABLE), soundfile.SoundFile(str(path)) as file:
            while len(block := file.read(_BLOCK, dtype="float32")):
                if not np.isfinite(block).all():
                    return "NaN or infinite samples"
                peak = max(peak, float(np.abs(block).max()))
                frames += len(block)
    except UserError as error:
        return str(error).removeprefix(f"{path}: ")
    if frames < header.frames:
        return f"truncated: {frames} of {header.frames} frames can be decoded"
    if peak < SILENCE:
        return "silent (peak below -80 dBFS)"
    return None
