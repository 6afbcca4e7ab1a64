"""The cache folder holds scans, resampled copies and the demo corpus. It may be deleted at any time."""

import hashlib
import os
from pathlib import Path

import platformdirs

from gtcrn.errors import UserError
from gtcrn.files import expanded


def cache_folder(cache_dir: str | Path | None, name: str) -> Path:
    """Return the folder `name` in `cache_dir`, or else in the user's own cache folder; it is created if need be.

    Raises UserError if it can't be created.
    """
    folder = expanded(cache_dir) if cache_dir else platformdirs.user_cache_path("gtcrn")
    try:
        (folder / name).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"data.cache_dir: {folder} can't be created ({error.strerror}); name another folder") from error
    return folder / name


def stamp(path: Path) -> list[int] | None:
    """Return [size in bytes, modification time in ns], which change with the file; None for a missing one."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):  # ValueError: the path holds a zero byte, so it is none
        return None
    return [status.st_size, status.st_mtime_ns]


def digest(*parts: object) -> str:
    """Return a short name, 16 hexadecimal digits, for something that is described by `parts`."""
    return hashlib.sha1(repr(parts).encode()).hexdigest()[:16]
