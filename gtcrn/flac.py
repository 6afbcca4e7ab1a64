"""FLAC files whose header states no length, as encoders write them that stream and never come back to the header.

libsndfile gives them a length of 2**63 - 1 frames, and fails when it reads to their end or seeks in them.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
from pathlib import Path

import soundfile

_UNSTATED = 2**63 - 1
_HEADER = re.compile(rb"fLaC[\x00\x80]\x00\x00\x22")  # its STREAMINFO of 34 bytes follows
_BLOCK = 2**16  # frames
_lengths: dict[bytes, int] = {}  # by a digest of the file, because training opens each again and again


class _Sequential(soundfile.SoundFile):
    """A file that is read from its beginning to its end, without the seek that soundfile makes after every read."""

    def seekable(self) -> bool:
        return False


def opened(source: bytes | io.BytesIO) -> soundfile.SoundFile:
    """Open an audio file, by its name or its content, to be read.

    A FLAC file that states no length is opened from memory, with the length in its header that decoding all of it once
    has shown. Raises what soundfile raises.
    """
    file = soundfile.SoundFile(source)
    if file.frames != _UNSTATED:
        return file
    file.close()
    content = bytearray(source.getvalue() if isinstance(source, io.BytesIO) else Path(os.fsdecode(source)).read_bytes())
    if header := _HEADER.search(content):
        # 5 bytes of STREAMINFO, of which the first 4 bits belong to the sample size
        field = slice(header.end() + 13, header.end() + 18)
        content[field] = (int.from_bytes(content[field], "big") | _length(content)).to_bytes(5, "big")
    return soundfile.SoundFile(io.BytesIO(content))


def _length(content: bytes | bytearray) -> int:
    """Return the number of frames that a file decodes to."""
    digest = hashlib.sha1(content).digest()
    if digest not in _lengths:
        with _Sequential(io.BytesIO(content)) as file:
            _lengths[digest] = sum(iter(lambda: len(file.read(_BLOCK, dtype="float32")), 0))
    return _lengths[digest]
