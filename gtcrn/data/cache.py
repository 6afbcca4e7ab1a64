"""Where files made once live: scans, resampled copies, the demo corpus. It may be deleted at any time."""

import hashlib
import os
from pathlib import Path

import platformdirs

from gtcrn.errors import UserError
from gtcrn.files import expanded


def cache_folder(cache_dir: str | Path | None, name: str) -> Path:
    """The folder `name` in `cache_dir`, or in the user's own cache folder; created if need be."""
    folder = expanded(cache_dir) if cache_dir else platformdirs.user_cache_path("gtcrn")
    try:
        (folder / name).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"data.cache_dir: {folder} can't be created ({error.strerror}); name another folder") from error
    return folder / name


def stamp(path: Path) -> list[int] | None:
    """Return what changes when the file does: [bytes, modification time in ns]; None for a missing file."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):  # or no path at all: it holds a zero
        return None
    return [status.st_size, status.st_mtime_ns]


def digest(*parts: object) -> str:
    """A short name for something with a long description."""
    return hashlib.sha1(repr(parts).encode()).hexdigest()[:16]
