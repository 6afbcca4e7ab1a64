"""Whether a model file may be opened: runtimes in C++ believe what a file says of its sizes, and end the process.

Files of this framework are sealed: their metadata hold a SHA-256 of all the rest, and damage is told before any
runtime sees it. Other files are tried in a process of their own first. Needs no package at all.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from gtcrn.errors import UserError

SEAL = "sha256"  # among a file's metadata
MARK = b"gtcrn, with metadata.json at the end"  # of a .tflite, lest one that has lost its end pass for another's
METADATA = "metadata.json"
_BLANK = "0" * 64
_ONNX_SEAL = re.compile(rb"\x06sha256\x12\x40([0-9a-f]{64})")  # as protobuf has a pair of strings
_LARGEST = 2**28  # bytes of all members of an archive, unpacked
_WORK = 20  # s of CPU time that a file may take to open and to run a hop
_PATIENCE = 300.0  # s by the clock, on a machine that has much else to do
_MEMORY = 8 * 2**30  # bytes of addresses that it may take
_TRIAL = """
import sys
from pathlib import Path
try:
    import resource
    resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[2]),) * 2)
    resource.setrlimit(resource.RLIMIT_CPU, (int(sys.argv[3]),) * 2)
except (ImportError, ValueError):  # not in Windows
    pass
from gtcrn.errors import UserError
from gtcrn.runtime import denoiser
try:
    denoiser.try_out(Path(sys.argv[1]))
except UserError as error:
    sys.exit(str(error))
except Exception as error:
    reason = " ".join(f"{type(error).__name__} {error}".split())
    sys.exit(f"{sys.argv[1]}: damaged, or not a model that runs here: {reason}")
"""


def blank_seal(metadata: Mapping[str, str]) -> dict[str, str]:
    """Return the metadata of an ONNX file with room for its seal."""
    return {**metadata, SEAL: _BLANK}


def seal_onnx(content: bytes) -> bytes:
    """Fill in the seal of an ONNX file whose metadata have room for it."""
    digest = hashlib.sha256(content).hexdigest()
    return _ONNX_SEAL.sub(lambda found: found[0][:-64] + digest.encode(), content, count=1)


def is_sealed_onnx(path: Path) -> bool:
    """Whether an ONNX file has a seal. Raises UserError if it is broken."""
    content = path.read_bytes()
    found = _ONNX_SEAL.search(content)
    if found:
        begin, end = found.span(1)
        _compare(found[1].decode(), (content[:begin], _BLANK.encode(), content[end:]), path)
    return found is not None


class Parts(NamedTuple):
    """A .tflite. content: the model alone. metadata, members: of the archive at its end; empty where there is none.
    sealed: whether the metadata have held a seal.
    """

    content: bytes
    metadata: dict
    members: dict[str, bytes]
    sealed: bool = False


def write_parts(path: Path, content: bytes, metadata: Mapping[str, str], members: Mapping[str, bytes]) -> None:
    """Write a model with its metadata, sealed, and other members in a zip archive at its end."""
    path.write_bytes(content)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(METADATA, json.dumps({**metadata, SEAL: _digest((content,))}))
        for name, member in members.items():
            archive.writestr(name, member)


def read_parts(path: Path) -> Parts:
    """Take a .tflite apart. Raises UserError if its seal is broken, or if its archive is damaged or gone."""
    content = path.read_bytes()
    try:
        archive = zipfile.ZipFile(io.BytesIO(content))
    except zipfile.BadZipFile as error:
        if MARK in content:
            raise UserError(f"{path}: damaged or cut off: its end is not what was exported; export it again") from error
        return Parts(content, {}, {})
    try:
        with archive:
            if sum(member.file_size for member in archive.infolist()) > _LARGEST:
                raise zipfile.BadZipFile("too large")
            members = {name: archive.read(name) for name in archive.namelist()}
            content = content[: min((member.header_offset for member in archive.infolist()), default=len(content))]
        metadata = json.loads(members.pop(METADATA, b"{}"))
        seal = metadata.pop(SEAL, None)
    except Exception as error:  # zipfile meets damage with a dozen kinds
        raise UserError(f"{path}: damaged: the archive at its end can't be read ({error}); export it again") from error
    if seal:
        _compare(seal, (content,), path)
    elif MARK in content:
        raise UserError(f"{path}: damaged: its metadata are not those that were exported; export it again")
    return Parts(content, metadata, members, bool(seal))


def seal_folder(folder: Path, metadata: Mapping[str, str], files: tuple[str, ...]) -> None:
    """Write the metadata of a model of several files, sealed with all of them."""
    text = json.dumps({**metadata, SEAL: _digest(_contents(folder, metadata, files))}, indent=2)
    (folder / METADATA).write_text(text)


def read_folder(folder: Path, files: tuple[str, ...]) -> dict:
    """Read the metadata of such a model. Raises UserError without a seal, or if it is broken."""
    try:
        metadata = json.loads((folder / METADATA).read_text())
        seal = metadata.pop(SEAL)
    except Exception as error:
        raise UserError(f"{folder / METADATA}: damaged, or not written by task=export; export it again") from error
    _compare(seal, _contents(folder, metadata, files), folder)
    return metadata


def _contents(folder: Path, metadata: Mapping[str, str], files: tuple[str, ...]) -> tuple[bytes, ...]:
    return *((folder / name).read_bytes() for name in files), json.dumps(dict(metadata), sort_keys=True).encode()


def _digest(parts: tuple[bytes, ...]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def _compare(seal: str, parts: tuple[bytes, ...], path: Path) -> None:
    if _digest(parts) != seal:
        raise UserError(f"{path}: damaged, or changed since it was exported: its SHA-256 is another; export it again")


def require_harmless(path: Path) -> None:
    """Open and run a file in a process of its own, once in this one. Raises UserError, which says how that ended."""
    facts = path.stat()
    _try(str(path.absolute()), facts.st_size, facts.st_mtime_ns)


@lru_cache
def _try(path: str, size: int, modified: int) -> None:
    command = [sys.executable, "-c", _TRIAL, path, str(_MEMORY), str(_WORK)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    try:
        done = subprocess.run(command, capture_output=True, env=environment, timeout=_PATIENCE)
    except subprocess.TimeoutExpired as error:
        raise UserError(f"{path}: takes more than {_PATIENCE:g} s to open and to run a hop; refused") from error
    if done.returncode in (-signal.SIGKILL, -getattr(signal, "SIGXCPU", 0)):
        raise UserError(f"{path}: takes more than {_WORK} s of CPU time to open and to run a hop; refused")
    said = done.stderr.decode(errors="replace").strip().splitlines() or ["no reason given"]
    if done.returncode < 0 or done.returncode not in (0, 1):
        raise UserError(f"{path}: damaged: the runtime crashed on it in a process of its own; take another file")
    if done.returncode:
        raise UserError(said[-1])
