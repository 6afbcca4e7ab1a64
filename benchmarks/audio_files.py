"""Damaged and lying audio files, which go through everything in the framework that opens audio."""

from __future__ import annotations

import functools
import io
import logging
import struct
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import soundfile
import torch
from children import Wrong

from gtcrn.data import audio
from gtcrn.data.manifest import open_manifest
from gtcrn.errors import UserError
from gtcrn.models import micro
from gtcrn.models.enhancer import Enhancer
from gtcrn.tasks.enhance import enhance_file

# (suffix, container, encoding); what libsndfile recognises by its content is also given other containers' suffixes
FORMATS = (
    *((".wav", "WAV", encoding) for encoding in ("PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE")),
    *((".wav", "WAV", encoding) for encoding in ("ULAW", "ALAW", "IMA_ADPCM", "MS_ADPCM", "GSM610")),
    *((".wav", "WAVEX", encoding) for encoding in ("PCM_16", "FLOAT")),
    *((".wav", "RF64", encoding) for encoding in ("PCM_16", "FLOAT")),
    *((".w64", "W64", encoding) for encoding in ("PCM_16", "FLOAT")),
    *((".aiff", "AIFF", encoding) for encoding in ("PCM_16", "PCM_24", "FLOAT", "IMA_ADPCM")),
    *((".caf", "CAF", encoding) for encoding in ("PCM_16", "FLOAT", "ALAC_16")),
    *((".flac", "FLAC", encoding) for encoding in ("PCM_16", "PCM_24")),
    *((".ogg", "OGG", encoding) for encoding in ("VORBIS", "OPUS")),
    (".opus", "OGG", "OPUS"),
    (".mp3", "MP3", "MPEG_LAYER_III"),
)
WHOLE_IN_BYTES = ("PCM", "FLOAT", "DOUBLE", "ULAW", "ALAW")  # a file of these that is cut certainly lacks samples
MONO = ("GSM610", "IMA_ADPCM")  # hold one channel in some containers or all
HEADER = 120  # bytes, within which most formats say what they hold
CHUNKS = (b"fmt ", b"data", b"fact", b"ds64", b"COMM", b"SSND", b"desc", b"pakt", b"OggS", b"Xing", b"Info", b"fLaC")
FORMS = ("<H", ">H", "<I", ">I", "<Q", ">Q")  # of numbers in headers
NUMBERS = (0, 1, 2, 3, 7, 255, 256, 32767, 32768, 65535, 2**24, 2**31 - 1, 2**31, 2**32 - 1)
LOUDEST = 100.0  # of full scale; a file whose peak is above holds integers, or was damaged
RATE = 16000

Bytes = bytearray
Mutator = Callable[[Bytes, np.random.Generator], Bytes]


def cases(count: int, seed: int) -> Iterator[tuple[str, int]]:
    """Yield (kind, seed): every kind of damage in turn."""
    kinds = [*MUTATORS, *CONTENTS, "cut"]
    for number in range(count):
        yield kinds[number % len(kinds)], seed * 1_000_000 + number


def check(case: tuple[str, int]) -> None:
    """Make the file, read it in every way, and compare what the ways say of it.

    Raises UserError where one of them refuses it, Wrong where they disagree or one hands on what can't be audio.
    """
    kind, seed = case
    rng = np.random.default_rng(seed)
    logging.disable(logging.WARNING)  # a line in the log is no verdict
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        path, cut = make(kind, rng, folder / "corpus")
        refusals = [
            read_alike(path, rng, cut),
            scanned_alike(path, folder / "cache"),
            enhanced_alike(path, folder / "enhanced.wav"),
        ]
    if refusal := next(filter(None, refusals), None):
        raise refusal


def read_alike(path: Path, rng: np.random.Generator, cut: bool) -> UserError | None:
    """Compare `examine` with `info`, `read` and `load`; return why the file is refused, if it is."""
    facts = audio.examine(path)
    try:
        header = audio.info(path)
        wave, rate = audio.read(path)
        whole = audio.load(path, RATE)
        start, frames = (int(number) for number in rng.integers(0, len(whole) + 1, 2))
        part = audio.load(path, RATE, start, frames)
    except UserError as error:
        if not facts.problem:
            raise Wrong(f"examine finds nothing wrong, but reading fails: {error}".replace(str(path), "FILE")) from None
        return error
    if facts.problem:
        return UserError(facts.problem)
    if cut:
        raise Wrong("a file that was cut is whole for examine")
    if not np.isfinite(wave).all():
        raise Wrong("samples that are no numbers pass examine")
    peak = float(np.abs(wave).max())
    if peak > LOUDEST:
        raise Wrong("samples far above full scale pass examine")
    told = facts.frames, facts.rate, facts.channels
    if told != (header.frames, header.samplerate, header.channels):
        raise Wrong("info and examine tell another length, rate or number of channels")
    if told != (len(wave), rate, 1 if wave.ndim == 1 else wave.shape[1]):
        raise Wrong("read gives another length, rate or number of channels than examine")
    if not np.isclose(peak, facts.peak, rtol=1e-5):
        raise Wrong("read gives another peak than examine")
    if len(whole) != audio.resampled_length(facts.frames, facts.rate, RATE) or not np.isfinite(whole).all():
        raise Wrong("load gives another length, or no numbers")
    expected = whole[start : start + frames]
    if part.shape != expected.shape or (part.size and np.abs(part - expected).max() > 1e-5 * max(1.0, peak)):
        raise Wrong(f"a part that load gives is not that part of the whole ({_encoding(path)})")
    return None


def scanned_alike(path: Path, cache: Path) -> UserError | None:
    """Compare the manifest's row with `examine`; return why the file is refused, if it is."""
    facts = audio.examine(path)
    try:
        row = open_manifest(path.parent, "data.speech", cache)[0]
    except UserError as error:
        return error
    if (row.frames, row.rate, row.channels, row.problem) != (facts.frames, facts.rate, facts.channels, facts.problem):
        raise Wrong("the manifest says something else than examine")
    return UserError(row.problem) if row.problem else None


def enhanced_alike(path: Path, destination: Path) -> UserError | None:
    """Enhance the file and compare the two; return why it is refused, if it is."""
    try:
        enhance_file(model(), path, destination)
    except UserError as error:
        if destination.exists():
            raise Wrong("enhance refuses a file, but leaves something under the output's name") from None
        return error
    before, after = soundfile.info(path), soundfile.info(destination)
    if (before.frames, before.samplerate, before.channels) != (after.frames, after.samplerate, after.channels):
        raise Wrong("the enhanced file has another length, rate or number of channels")
    if not np.isfinite(soundfile.read(destination)[0]).all():
        raise Wrong("the enhanced file holds samples that are no numbers")
    if "truncated" in (problem := audio.examine(path).problem) or "NaN" in problem:
        raise Wrong(f"enhance says nothing of a file that examine calls {problem.split()[0].rstrip(':')}")
    return None


@functools.cache
def model() -> Enhancer:
    """Return a small model with random weights, as every worker makes it once."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    return micro.build().eval()


def make(kind: str, rng: np.random.Generator, folder: Path) -> tuple[Path, bool]:
    """Write the file into the folder; return its path, and whether samples of it are missing for certain."""
    suffix, container, encoding = FORMATS[rng.integers(len(FORMATS))]
    cut = False
    if kind in CONTENTS:
        container, encoding = (("WAV", "FLOAT"), ("W64", "DOUBLE"), ("CAF", "FLOAT"))[rng.integers(3)]
        suffix = ".wav"
        content = encoded(container, encoding, CONTENTS[kind](wave(rng), rng), RATE)
    else:
        content = original(suffix, container, encoding, rng)
        if kind == "cut":
            length = int(rng.integers(len(content)))
            cut = encoding.startswith(WHOLE_IN_BYTES) and length < 0.9 * len(content)
            content = content[:length]
        else:
            for _ in range(int(rng.integers(1, 4))):
                content = MUTATORS[kind](content, rng)
    if rng.random() < 0.2:
        suffix = audio.SUFFIXES[rng.integers(len(audio.SUFFIXES))]
    folder.mkdir()
    (folder / f"speaker_1{suffix}").write_bytes(content)
    return folder / f"speaker_1{suffix}", cut


def wave(rng: np.random.Generator) -> np.ndarray:
    """Return (N,) or (N, C) noise of up to half a second."""
    channels = rng.choice([0, 0, 1, 2])
    shape = int(rng.integers(1, 8000))
    return rng.uniform(-0.5, 0.5, (shape, channels) if channels else shape)


def original(suffix: str, container: str, encoding: str, rng: np.random.Generator) -> Bytes:
    return encoded(container, encoding, wave(rng), int(rng.choice([8000, 16000, 24000, 48000])))


def encoded(container: str, encoding: str, samples: np.ndarray, rate: int) -> Bytes:
    if encoding in MONO and samples.ndim > 1:
        samples = samples[:, 0]
    file = io.BytesIO()
    soundfile.write(file, samples, rate, encoding, format=container)
    return Bytes(file.getvalue())


def _encoding(path: Path) -> str:
    header = soundfile.info(path)
    return f"{header.format} {header.subtype}"


def _flip_in(content: Bytes, rng: np.random.Generator, end: int) -> Bytes:
    for _ in range(int(rng.integers(1, 9))):
        if content:
            content[rng.integers(min(end, len(content)))] ^= 1 << rng.integers(8)
    return content


def with_number(content: Bytes, chunk: bytes, field: int, form: str, number: int) -> Bytes:
    """Put a number, or the largest that fits, into the file, so many fields of 2 bytes behind the name of a chunk."""
    start = content.find(chunk) + len(chunk) if chunk in content else 0
    value = struct.pack(form, min(number, 256 ** struct.calcsize(form) - 1))
    content[start + 2 * field : start + 2 * field + len(value)] = value
    return content


def _number(content: Bytes, rng: np.random.Generator) -> Bytes:
    chunks = [b"", *(chunk for chunk in CHUNKS if chunk in content)]
    chunk = chunks[rng.integers(len(chunks))]
    field = int(rng.integers(16 if chunk else HEADER // 2))
    form = FORMS[rng.integers(len(FORMS))]
    number = NUMBERS[rng.integers(len(NUMBERS))] + (2**32 * int(rng.integers(3)) if form[1] == "Q" else 0)
    return with_number(content, chunk, field, form, number)


def _chunks(content: Bytes, rng: np.random.Generator) -> Bytes:
    """Put a stretch of the file elsewhere: once more, or in the place of another."""
    first, second, third = sorted(int(place) for place in rng.integers(0, len(content) + 1, 3))
    return content[:third] + content[first:second] + content[second if rng.random() < 0.5 else third :]


def _splice(content: Bytes, rng: np.random.Generator) -> Bytes:
    """Go on with another file from somewhere in the header."""
    place = int(rng.integers(4, HEADER))
    return content[:place] + original(*FORMATS[rng.integers(len(FORMATS))], rng)[place:]


def _fill(content: Bytes, rng: np.random.Generator) -> Bytes:
    """Set a stretch to one value, as a lost block of a disk is read."""
    start, length = int(rng.integers(len(content) + 1)), int(rng.integers(1, 2048))
    value = int(rng.choice([0, 127, 128, 255]))
    content[start : start + length] = bytes([value]) * len(content[start : start + length])
    return content


MUTATORS: dict[str, Mutator] = {
    "bits of the header": lambda content, rng: _flip_in(content, rng, HEADER),
    "bits": lambda content, rng: _flip_in(content, rng, len(content)),
    "number in a field": _number,
    "stretch elsewhere": _chunks,
    "spliced": _splice,
    "stretch lost": _fill,
    "garbage behind the head": lambda content, rng: content[: rng.integers(64)] + rng.bytes(rng.integers(4096)),
    "longer": lambda content, rng: content + rng.bytes(rng.integers(1, 4096)),
}

CONTENTS: dict[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
    "NaN": lambda samples, rng: _with(samples, rng, np.nan),
    "infinity": lambda samples, rng: _with(samples, rng, -np.inf),
    "one huge sample": lambda samples, rng: _with(samples, rng, 1e20),
    "integers as floats": lambda samples, rng: 32768 * samples,
    "denormal numbers": lambda samples, rng: 1e-40 * samples,
    "an offset": lambda samples, rng: 1e-3 * samples + 0.7,
    "nothing": lambda samples, rng: samples[:0],
}


def _with(samples: np.ndarray, rng: np.random.Generator, value: float) -> np.ndarray:
    samples[rng.integers(len(samples))] = value
    return samples
