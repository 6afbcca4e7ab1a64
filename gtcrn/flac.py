"""FLAC files whose header states no length, as encoders write them that stream and never come back to the header.

libsndfile gives them a length of 2**63 - 1 frames, and fails when it reads to their end or seeks in them.
"""

from __future__ import annotations

import hashlib
import io
import re

import soundfile

_UNSTATED = 2**63 - 1
_HEADER = re.compile(rb"fLaC[\x00\x80]\x00\x00\x22")  # its STREAMINFO of 34 bytes follows, which ends in an MD5
_LENGTH = slice(13, 18)  # bytes of STREAMINFO that hold the length, of which the first 4 bits are not part of it
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
    if isinstance(source, bytes):
        with open(source, "rb") as stored:
            content = bytearray(stored.read())
    else:
        content = bytearray(source.getvalue())
    if header := _HEADER.search(content):
        stated = content[header.end() :][_LENGTH]
        number = int.from_bytes(stated, "big") | _length(content)
        content[header.end() + _LENGTH.start : header.end() + _LENGTH.stop] = number.to_bytes(len(stated), "big")
    return soundfile.SoundFile(io.BytesIO(content))


def _length(content: bytes | bytearray) -> int:
    """Return the number of frames that a file decodes to."""
    digest = hashlib.sha1(content).digest()
    if digest not in _lengths:
        with _Sequential(io.BytesIO(content)) as file:
            _lengths[digest] = sum(iter(lambda: len(file.read(_BLOCK, dtype="float32")), 0))
    return _lengths[digest]
