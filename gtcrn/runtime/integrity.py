"""Checks whether a model file may be opened: runtimes in C++ trust the sizes in a file, and a wrong one crashes them.

Files of this framework are sealed: their metadata hold a SHA-256 of everything else, so damage is found before any
runtime opens them. Other files are tried out in a process of their own first. No package is needed.
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

SEAL = "sha256"  # key of a file's metadata
MARK = b"gtcrn, with metadata.json at the end"  # in a .tflite of ours, so that one whose end is cut off is recognised
METADATA = "metadata.json"
_BLANK = "0" * 64
_ONNX_SEAL = re.compile(rb"\x06sha256\x12\x40([0-9a-f]{64})")  # as protobuf encodes a pair of strings
_LARGEST = 2**28  # bytes of all members of an archive, unpacked
_CPU_LIMIT = 20  # s of CPU time that a file may take to open and to run a hop
_TIMEOUT = 300.0  # s of wall-clock time, for a machine that is busy
_MEMORY_LIMIT = 8 * 2**30  # bytes of address space that it may take
_TRIAL = """
import sys
from pathlib import Path
try:
    import resource
    resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[2]),) * 2)
    resource.setrlimit(resource.RLIMIT_CPU, (int(sys.argv[3]), int(sys.argv[3]) + 1))  # SIGXCPU comes first
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
    """Return whether an ONNX file has a seal. Raises UserError if the seal is broken."""
    content = path.read_bytes()
    found = _ONNX_SEAL.search(content)
    if found:
        begin, end = found.span(1)
        _compare(found[1].decode(), (content[:begin], _BLANK.encode(), content[end:]), path)
    return found is not None


class Parts(NamedTuple):
    """The parts of a .tflite.

    content: the model alone. metadata, members: of the archive at its end, empty where there is none. sealed: whether
    the metadata held a seal.
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
    """Read the parts of a .tflite. Raises UserError if its seal is broken, or if its archive is damaged or missing."""
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
    except Exception as error:  # zipfile raises a dozen types for damage
        raise UserError(f"{path}: damaged: the archive at its end can't be read ({error}); export it again") from error
    if seal:
        _compare(seal, (content,), path)
    elif MARK in content:
        raise UserError(f"{path}: damaged: its metadata are not those that were exported; export it again")
    return Parts(content, metadata, members, bool(seal))


def seal_folder(folder: Path, metadata: Mapping[str, str], files: tuple[str, ...]) -> None:
    """Write the metadata of a model of several files, with a seal over all of them."""
    text = json.dumps({**metadata, SEAL: _digest(_contents(folder, metadata, files))}, indent=2)
    (folder / METADATA).write_text(text)


def read_folder(folder: Path, files: tuple[str, ...]) -> dict:
    """Read the metadata of a model of several files. Raises UserError if its seal is missing or broken."""
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
    """Try out a file in a process of its own, the first time that it is opened. Raises UserError if that fails."""
    facts = path.stat()
    _try(str(path.absolute()), facts.st_size, facts.st_mtime_ns)


@lru_cache
def _try(path: str, size: int, modified: int) -> None:
    command = [sys.executable, "-c", _TRIAL, path, str(_MEMORY_LIMIT), str(_CPU_LIMIT)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    try:
        done = subprocess.run(command, capture_output=True, env=environment, timeout=_TIMEOUT)
    except subprocess.TimeoutExpired as error:
        raise UserError(f"{path}: takes more than {_TIMEOUT:g} s to open and to run a hop; refused") from error
    ended_by = signal.Signals(-done.returncode).name if done.returncode < 0 else ""
    if ended_by == "SIGXCPU":
        raise UserError(f"{path}: takes more than {_CPU_LIMIT} s of CPU time to open and to run a hop; refused")
    if ended_by == "SIGKILL":
        raise UserError(
            f"{path}: the process that tried it out was ended from outside, most often for want of memory; try again"
        )
    lines = done.stderr.decode(errors="replace").strip().splitlines() or ["no reason given"]
    if done.returncode < 0 or done.returncode not in (0, 1):
        raise UserError(f"{path}: damaged: the runtime crashed on it in a process of its own; take another file")
    if done.returncode:
        raise UserError(lines[-1])
