"""Writing of files, which appear under their name whole or not at all, and paths of the user."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gtcrn.errors import UserError


@contextmanager
def whole(path: str | Path) -> Iterator[Path]:
    """Give a hidden temporary path beside `path`, which takes that name when the block ends without an error.

    Before the name changes, the content is on the disk: neither a killed process nor a power failure leaves half a
    file under `path`, and what stood there before stays until then. The temporary name is short, so that the longest
    name a file system allows can be written. Folders on the way are made.

    Raises UserError in one line, with the space that is left, if the file can't be written.
    """
    path = Path(path)
    partial = path.with_name(f".{uuid.uuid4().hex[:12]}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            if stat.S_ISDIR(os.stat(path).st_mode):  # os.stat also raises for a name that is too long, before the work
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        yield partial
        with open(partial, "rb") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        raise UserError(unwritable(path, error)) from error
    finally:
        with suppress(OSError):  # the file has been renamed, or its folder can't be used
            partial.unlink()


def write_text(path: str | Path, text: str) -> None:
    """Write a text in UTF-8, whole or not at all; see `whole`."""
    with whole(path) as partial:
        partial.write_text(text, encoding="utf-8")


def expanded(path: str | Path) -> Path:
    """Return a path in which `~` and `~name` are the folders of this user and of that one.

    Raises UserError for a name that no user of this machine has.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise UserError(f"{path}: this machine has no user {Path(path).parts[0][1:]}; write the folder out") from None


def fitting(path: str | Path) -> str:
    """Return a path without suffix, its last name cut so that of 255 bytes 24 are left for a suffix.

    A name that is cut ends in a digest, so that it differs from others.
    """
    folder, name = os.path.split(path)
    if len(os.fsencode(name)) <= 231:
        return str(path)
    kept = os.fsencode(name)[:222].decode(errors="ignore")
    return os.path.join(folder, f"{kept}-{hashlib.sha1(os.fsencode(name)).hexdigest()[:8]}")


def unwritable(path: str | Path, error: OSError) -> str:
    """Return the line that says why `path` can't be written, and how much space its disk has left."""
    folder = next(folder for folder in Path(path).absolute().parents if folder.is_dir())
    free = shutil.disk_usage(folder).free / 1e9
    return f"{path}: can't be written ({error.strerror or error}; {free:.1f} GB free)"
