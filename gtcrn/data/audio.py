"""Reading, writing and resampling of audio files: the formats of `FORMATS` by libsndfile, other rates by soxr.

Waves are float32 in [-1, 1], shaped (N,) for one channel and (N, C) for more. A path may also name a file packed into
a tar archive, by the offset and size of its bytes: `shard-000002.tar@1536+48213` (see `gtcrn.data.shards`).
"""

import errno
import io
import os
import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from math import ceil, gcd, inf, sqrt
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
import soxr

from gtcrn import flac
from gtcrn.errors import UserError
from gtcrn.files import whole

# {suffix: (format, subtype)}; the subtype is written if no other is asked for
FORMATS = {
    ".wav": ("WAV", "PCM_16"),
    ".wave": ("WAV", "PCM_16"),
    ".flac": ("FLAC", "PCM_16"),
    ".ogg": ("OGG", "VORBIS"),
    ".oga": ("OGG", "VORBIS"),
    ".opus": ("OGG", "OPUS"),
    ".mp3": ("MP3", "MPEG_LAYER_III"),
    ".aiff": ("AIFF", "PCM_16"),
    ".aif": ("AIFF", "PCM_16"),
    ".aifc": ("AIFF", "PCM_16"),
    ".caf": ("CAF", "PCM_16"),
    ".w64": ("W64", "PCM_16"),
    ".rf64": ("RF64", "PCM_16"),
    ".au": ("AU", "PCM_16"),
    ".snd": ("AU", "PCM_16"),
    ".sph": ("NIST", "PCM_16"),
}
SUFFIXES = tuple(FORMATS)
# suffixes of audio that libsndfile does not read
UNSUPPORTED = tuple(".aac .amr .ape .dsf .m4a .m4b .mka .mp4 .mpc .ra .tta .webm .wma .wv".split())
RATES = range(4000, 768001)  # Hz; a file with another rate is damaged, and would be resampled for hours
SILENCE = 1e-4  # a file whose peak stays below this (-80 dBFS) holds nothing but dither
LOUDEST = 10.0  # a float file may pass full scale by a little; beyond this it holds integers, or is damaged

_UNREADABLE, _UNWRITABLE = "not readable as audio", "can't be written"
_BLOCK = 2**16  # frames; libsndfile's Vorbis encoder overflows its stack when given minutes at once
_PACKED = re.compile(r"(.+\.tar)@(\d+)\+(\d+)")
# the bytes that a container states, and those that are there: libsndfile reads a file that was cut without an error
# and only logs it
_CUT = re.compile(r"(data|SSND|riff|Riff size)\s*: (\d+) \(should be (\d+)\)")
# {subtype: bits of a sample} of WAV, AIFF, CAF, …; a file keeps its subtype if it is one of these. libsndfile writes
# others wrongly or not at all, and those of whole blocks (ADPCM, GSM 6.10) at another length
_BITS = dict(
    PCM_S8=8, PCM_U8=8, PCM_16=16, PCM_24=24, PCM_32=32, FLOAT=32, DOUBLE=64, ULAW=8, ALAW=8,
    ALAC_16=16, ALAC_20=20, ALAC_24=24, VORBIS=0, OPUS=0,
)  # fmt: skip
_SET_ADD_PEAK_CHUNK = 0x1050  # command of libsndfile; the chunk holds the time, by which equal waves make other files
_WAVS = ("WAV", "WAVEX", "RF64")  # all of them bear the suffix .wav
_32_BITS = ("WAV", "WAVEX", "AIFF", "AU")  # formats that count their bytes in 32 bits
_MOST_BYTES = 2**32 - 2**20  # limit of such a file, with room for its header and tags
_ASCII = ("AIFF", "MP3")  # formats whose tags libsndfile writes in ASCII alone
# bytes; a file that states more was written by a program that did not know its length beforehand
_STREAMED = {"data": 2**31 - 2**12, "SSND": 2**31 - 2**12, "riff": 2**62, "Riff size": 2**62}


def is_audio(path: Path) -> bool:
    """Return whether a path has the name of an audio file; hidden files (`._p226_001.wav` of macOS) do not count."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


@contextmanager
def _naming(path: str | Path, failure: str) -> Iterator[None]:
    """Turn the errors of libsndfile, the file system and memory into a UserError that names the file and the `failure`.

    Memory runs out where a damaged file states an impossible length.
    """
    try:
        yield
    except UserError:
        raise
    except (soundfile.LibsndfileError, TypeError, OSError, MemoryError, ValueError) as error:
        reason = getattr(error, "error_string", None) or getattr(error, "strerror", None) or str(error)
        if failure == _UNREADABLE and not os.path.exists(container(path)):
            reason = "no such file"
        raise UserError(f"{path}: {failure}: {reason.rstrip('.')}") from error


def container(path: str | Path) -> Path:
    """Return the file on disk: the path itself, or the archive that it points into."""
    packed = _PACKED.fullmatch(str(path))
    return Path(packed.group(1) if packed else path)


def _opened(path: str | Path) -> bytes | io.BytesIO:
    """Return the argument with which libsndfile opens a file: its name as bytes, or the content of a packed file.

    Raises OSError for pipes and devices, which may never end or keep a reader waiting for ever.
    """
    if not stat.S_ISREG(os.stat(container(path)).st_mode):
        raise OSError("a folder, pipe or device, and not a file")
    if not (packed := _PACKED.fullmatch(str(path))):
        return os.fsencode(path)
    archive, offset, size = packed[1], *map(int, packed.groups()[1:])
    with open(archive, "rb") as file:
        if offset + size > os.fstat(file.fileno()).st_size:
            raise OSError("its archive ends before that; pack the files anew")
        file.seek(offset)
        return io.BytesIO(file.read(size))


class Header(NamedTuple):
    """The header of a file. samplerate: Hz. format, subtype: by libsndfile's names."""

    frames: int
    samplerate: int
    channels: int
    format: str
    subtype: str

    @property
    def duration(self) -> float:
        """Return the length in seconds."""
        return self.frames / self.samplerate


def info(path: str | Path) -> Header:
    """Read the header of a file. Raises UserError if it can't be read."""
    with reading(path) as file:
        return Header(file.frames, file.samplerate, file.channels, file.format, file.subtype)


def read(path: str | Path, start: int = 0, frames: int = -1) -> tuple[np.ndarray, int]:
    """Decode `frames` frames (to the end when negative) from frame `start` on, and only those.

    Returns the wave, (N,) or (N, C) float32, and its rate in Hz. N is below `frames` at the file's end. Raises
    UserError if the file can't be read.
    """
    with reading(path) as file:
        file.seek(min(start, file.frames))
        return file.read(frames, dtype="float32"), file.samplerate


def load(path: str | Path, sample_rate: int, start: int = 0, frames: int = -1) -> np.ndarray:
    """Decode a part of a file at `sample_rate` (Hz), in which `start` and `frames` are counted too; else as `read`.

    From a file at another rate this is the same part of the wholly resampled file (to 1e-6 of full scale),
    though only that part, with 20 ms on either side for the filter, is decoded and resampled.
    """
    with reading(path) as file:
        rate = file.samplerate
        if rate == sample_rate:
            file.seek(min(start, file.frames))
            return file.read(frames, dtype="float32")
        # Both rates' sample grids coincide every `period` samples: the part must begin on such a point.
        divisor = gcd(rate, sample_rate)
        period, source_period = sample_rate // divisor, rate // divisor
        margin = ceil(0.02 * sample_rate / period)
        first = max(0, start // period - margin)
        source_frames = -1 if frames < 0 else (ceil((start + frames) / period) + margin - first) * source_period
        file.seek(min(first * source_period, file.frames))
        wave = resample(file.read(source_frames, dtype="float32"), rate, sample_rate)
    wave = wave[start - first * period :]
    return wave if frames < 0 else wave[:frames]


@contextmanager
def reading(path: str | Path) -> Iterator[soundfile.SoundFile]:
    """Open a file to be read piece by piece. An error in the block becomes a UserError that names the file.

    So do two faults that libsndfile ignores: a file that was cut, and a rate that audio can't have.
    """
    with _naming(path, _UNREADABLE), flac.opened(_opened(path)) as file:
        for unit, stated, there in _CUT.findall(file.extra_info):
            if int(there) < int(stated) < _STREAMED[unit]:
                raise UserError(f"{path}: truncated: {there} of {stated} bytes are there")
        if file.samplerate not in RATES:
            limits = f"{RATES.start} to {RATES.stop - 1}"
            raise UserError(f"{path}: damaged: a sample rate of {file.samplerate} Hz, where {limits} are possible")
        yield file


@contextmanager
def writing(
    path: str | Path,
    sample_rate: int,
    channels: int = 1,
    subtype: str | None = None,
    file_format: str | None = None,
    frames: int = 0,
    tags: Mapping[str, str] | None = None,
) -> Iterator[soundfile.SoundFile]:
    """Open a file to be written piece by piece: `with writing(...) as file: file.write(chunk)`.

    The file appears under its name, whole, when the block ends without an error, and not at all otherwise. A file that
    can't be written, or whose format can't hold so much, raises UserError before the block begins.

    subtype, file_format: of the file that the audio came from. Both are kept if the format of the suffix has them (for
        .wav: WAV, WAVEX or RF64), else the format's default is taken.
    frames: how many will be written. A WAV of more than 4 GiB becomes RF64.
    tags: title, artist, … (see `tags_of`); those that the format has are written.
    """
    with (
        whole(path) as partial,
        encoding(path, partial, sample_rate, channels, subtype, file_format, frames, tags) as file,
    ):
        yield file


@contextmanager
def encoding(
    path: str | Path,
    target: Path,
    sample_rate: int,
    channels: int,
    subtype: str | None = None,
    file_format: str | None = None,
    frames: int = 0,
    tags: Mapping[str, str] | None = None,
) -> Iterator[soundfile.SoundFile]:
    """Open the file `target`, which will be renamed to `path`, to be written piece by piece; else as `writing`.

    Raises OSError if the disk is full: libsndfile reports that unclearly, and for the last bytes of a file not at all.
    """
    file_format, subtype = _written_as(Path(path), channels, subtype, file_format, frames)
    with _Disk(target, "wb") as disk:
        disk.most = 2**32 if file_format in _32_BITS else None
        try:
            with _naming(path, _UNWRITABLE):
                file = soundfile.SoundFile(disk, "w", sample_rate, channels, subtype, format=file_format)
            if file_format != "RF64":  # which has no such chunk, and would get one
                # soundfile has no word for this, so libsndfile is called itself
                soundfile._snd.sf_command(file._file, _SET_ADD_PEAK_CHUNK, soundfile._ffi.NULL, False)
            with file:
                for name, text in (tags or {}).items():
                    if text.isascii() or file_format not in _ASCII:
                        with suppress(soundfile.LibsndfileError):  # a format without this tag
                            setattr(file, name, text)
                yield file
        finally:
            if disk.error:
                raise disk.error


class _Disk(io.FileIO):
    """A file that keeps the error which libsndfile ignores. most: bytes that its format can count; None: no limit."""

    error: OSError | None = None
    most: int | None = None

    def write(self, data: bytes) -> int:
        written = 0
        try:
            if self.most and self.tell() + len(data) > self.most:
                raise OSError(errno.EFBIG, "this format holds at most 4 GiB; FLAC, CAF and W64 hold more")
            while written < len(data):
                written += super().write(data[written:])
        except OSError as error:
            self.error = error
        return written


def _written_as(
    path: Path, channels: int, subtype: str | None, file_format: str | None, frames: int
) -> tuple[str, str]:
    """Return the format and subtype in which a file is written (see `writing`). Raises UserError if there is none."""
    if path.suffix.lower() not in FORMATS:
        raise UserError(f"{path}: audio is written as {', '.join(SUFFIXES)}, so give it one of these suffixes")
    own_format, own_subtype = FORMATS[path.suffix.lower()]
    if not (own_format == "WAV" and file_format in _WAVS):
        file_format = own_format

    if file_format == "FLAC" and channels > 8:  # libsndfile would report it only after the work
        raise UserError(
            f"{path}: can't be written: FLAC holds at most 8 channels, and these are {channels}; name a .wav"
        )

    def kept() -> str:
        return subtype if subtype in _BITS and subtype in soundfile.available_subtypes(file_format) else own_subtype

    if file_format in _32_BITS and frames * channels * _BITS[kept()] > 8 * _MOST_BYTES:
        if file_format not in _WAVS:
            raise UserError(f"{path}: {file_format} holds at most 4 GiB; name a .wav, .w64, .caf or .flac instead")
        file_format = "RF64"
    return file_format, kept()


def tags_of(path: str | Path) -> dict[str, str]:
    """Return the title, artist, comment, … that a file holds, by libsndfile's names."""
    with reading(path) as file:
        tags = file.copy_metadata()
    return {
        name: text for name, text in tags.items() if text and name != "software"
    }  # which names the program that wrote it


def write(path: str | Path, wave: np.ndarray, sample_rate: int, subtype: str | None = None) -> None:
    """Write a wave, (N,) or (N, C), whole or not at all; see `writing`. Integer formats clip at full scale."""
    channels = 1 if wave.ndim == 1 else wave.shape[1]
    with _naming(path, _UNWRITABLE), writing(path, sample_rate, channels, subtype, frames=len(wave)) as file:
        for start in range(0, len(wave), _BLOCK):
            file.write(wave[start : start + _BLOCK])


def resampled_length(frames: int, from_rate: int, to_rate: int) -> int:
    """Return the number of frames that `resample` gives."""
    return (2 * frames * to_rate + from_rate) // (2 * from_rate)  # rounded, in exact integers


def resample(wave: np.ndarray, from_rate: int, to_rate: int) -> np.ndarray:
    """Resample a whole signal, (N,) or (N, C): linear phase, aligned in time, soxr's high quality. Rates are in Hz."""
    if from_rate == to_rate:
        return wave
    length = resampled_length(len(wave), from_rate, to_rate)
    wave = soxr.resample(wave, from_rate, to_rate, quality="HQ")[:length]
    return np.pad(wave, [(0, length - len(wave))] + [(0, 0)] * (wave.ndim - 1))


@dataclass(frozen=True)
class Facts:
    """The facts about a file that decoding all of it shows.

    peak, rms: relative to full scale, over all channels. problem: why the file can't be used, or "".
    """

    frames: int = 0
    rate: int = 0
    channels: int = 0
    peak: float = 0.0
    rms: float = 0.0
    problem: str = ""


def examine(path: str | Path) -> Facts:
    """Decode all of a file, in constant memory, and return its facts. The problem is named without the file's path."""
    peak, squares, frames = 0.0, 0.0, 0
    try:
        with reading(path) as file:
            header = file.frames, file.samplerate, file.channels
            while len(block := file.read(_BLOCK, dtype="float32")):
                peak = max(peak, float(np.abs(block).max()))  # max() may drop a NaN, but it stays in the squares
                squares += float(np.vdot(block, block))
                frames += len(block)
            file.seek(frames // 2)  # some files can only be read from their start, but training reads from anywhere
            file.read(1)
    except UserError as error:
        return Facts(problem=str(error).removeprefix(f"{path}: "))
    problem = ""
    if header[0] == 0:
        problem = "empty"
    elif LOUDEST < peak < inf:
        problem = f"peak of {peak:.6g} where full scale is 1: integers held as floats (divide them), or damaged"
    elif not np.isfinite(squares):
        problem = "NaN or infinite samples"
    elif frames != header[0]:
        problem = f"truncated or damaged: {frames} of {header[0]} frames can be decoded"
    elif peak < SILENCE:
        problem = "silent (peak below -80 dBFS)"
    if problem:
        return Facts(*header, problem=problem)
    return Facts(*header, peak, sqrt(squares / (frames * header[2])))


def wrong_rate(rate: int, lowest_rate: int) -> str:
    """Return the problem of a file below the lowest rate (Hz): resampling can't bring back the band that it lost."""
    return f"wrong rate: {rate} Hz where at least {lowest_rate} Hz is needed; lowest_rate={rate} would let it in"
