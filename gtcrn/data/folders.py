"""The search of a folder for audio files, which all tasks share. It follows links and logs the files it leaves out."""

from __future__ import annotations

import codecs
import logging
import os
from collections import Counter
from functools import cache
from pathlib import Path
from typing import NamedTuple

from gtcrn.data import audio
from gtcrn.errors import printable

log = logging.getLogger(__name__)

NO_UTF8 = "its name is not UTF-8; rename it"  # the problem of a file whose name can't be written into a table


class Search(NamedTuple):
    """The result of a search, with paths relative to the folder that was searched.

    files: those with a suffix of audio; the files of a folder, sorted by name, come before those of its folders.
    unreadable: {folder: reason}.
    """

    files: list[str]
    unreadable: dict[str, str]


def search(root: Path, spared: Path | None = None) -> Search:
    """Find the audio files in and below a folder.

    Links to files and folders are followed, but no folder is entered twice, so that links which lead back end and no
    file is found under two names. Hidden files are left out without a word; files in other formats, and links to a
    folder that was searched already, are counted and named in the log.

    spared: a folder that is not searched, if it is not `root` itself; it need not exist.
    """
    files: list[str] = []
    unreadable: dict[str, str] = {}
    others: list[str] = []
    folders, seen = [""], set()
    if spared and spared.exists() and not spared.samefile(root):
        seen.add(_identity(spared))
    while folders:
        folder = folders.pop()
        try:
            identity = _identity(root / folder)
            if identity in seen:
                if os.path.islink(root / folder):
                    _log_once(logging.INFO, "%s: leads to a folder that is searched already", str(root / folder))
                continue
            entries = sorted(os.scandir(root / folder), key=lambda entry: entry.name)
        except OSError as error:
            unreadable[folder or "."] = f"unreadable folder: {error.strerror}"
            continue
        seen.add(identity)
        inside = []
        for entry in entries:
            name = os.path.join(folder, entry.name)
            # is_dir() without follow_symlinks=False raises an error for a link that leads to itself; isdir says no
            if entry.is_dir(follow_symlinks=False) or entry.is_symlink() and os.path.isdir(entry):
                inside.append(name)
            elif audio.is_audio(Path(entry.name)):
                files.append(name)
            elif not entry.name.startswith("."):
                others.append(name)
        folders += reversed(inside)
    _log_left_out(root, others)
    return Search(files, unreadable)


def listed_lines(file: Path) -> list[str]:
    """Return the lines of a list of paths without empty ones and comments (`# …`), whatever system wrote it.

    A byte order mark and line ends of Windows are removed, and bytes that are no UTF-8 are kept.
    """
    text = file.read_bytes().removeprefix(codecs.BOM_UTF8).decode(errors="surrogateescape")
    lines = (line.strip() for line in text.split("\n"))
    return [line for line in lines if line and not line.startswith("#")]


def is_utf8(name: object) -> bool:
    """Return whether a path can be written into a table."""
    return printable(name) == str(name)


def _identity(folder: Path) -> tuple[int, int]:
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def _log_left_out(root: Path, names: list[str]) -> None:
    """Log how many files are left out, by their suffixes with an example of each."""
    examples: dict[str, str] = {}
    counts: Counter[str] = Counter()
    for name in names:
        suffix = os.path.splitext(name)[1].lower()
        examples.setdefault(suffix, name)
        counts[suffix] += 1
    for unsupported in (True, False):
        some = [suffix for suffix, _ in counts.most_common() if (suffix in audio.UNSUPPORTED) == unsupported]
        listed = ", ".join(f"{counts[suffix]} {suffix or 'without suffix'} ({examples[suffix]})" for suffix in some)
        if some and unsupported:
            _log_once(
                logging.WARNING,
                "%s: left out %s: formats that are not read here; convert them, e.g. ffmpeg -i NAME NAME.flac",
                str(root),
                listed,
            )
        elif some:
            _log_once(logging.INFO, "%s: left out %s: no audio", str(root), listed)


@cache
def _log_once(level: int, message: str, *values: str) -> None:
    """Log a message only the first time, since a folder is searched for every split."""
    log.log(level, message, *map(printable, values))
