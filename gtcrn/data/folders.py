"""The one way to search a folder for audio: links are followed, and what is left out is told."""

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

NO_UTF8 = "its name is not UTF-8; rename it"  # what is wrong with a file that no table can name


class Search(NamedTuple):
    """What is in and below a folder, by paths relative to it.

    files: those with a name of audio, of each folder by name and before those of the folders in it.
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
                    _tell(logging.INFO, "%s: leads to a folder that is searched already", str(root / folder))
                continue
            entries = sorted(os.scandir(root / folder), key=lambda entry: entry.name)
        except OSError as error:
            unreadable[folder or "."] = f"unreadable folder: {error.strerror}"
            continue
        seen.add(identity)
        inside = []
        for entry in entries:
            name = os.path.join(folder, entry.name)
            # of a link that leads to itself only the second says no without an error
            if entry.is_dir(follow_symlinks=False) or entry.is_symlink() and os.path.isdir(entry):
                inside.append(name)
            elif audio.is_audio(Path(entry.name)):
                files.append(name)
            elif not entry.name.startswith("."):
                others.append(name)
        folders += reversed(inside)
    _tell_left_out(root, others)
    return Search(files, unreadable)


def listed_lines(file: Path) -> list[str]:
    """Return the lines of a list of paths without empty ones and comments (`# …`), whatever system wrote it.

    A byte order mark, line ends of Windows and bytes that are no UTF-8 are taken as they come.
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


def _tell_left_out(root: Path, names: list[str]) -> None:
    """Say in the log how many files are no audio that can be read, by their suffixes with an example of each."""
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
            _tell(
                logging.WARNING,
                "%s: left out %s: formats that are not read here; convert them, e.g. ffmpeg -i NAME NAME.flac",
                str(root),
                listed,
            )
        elif some:
            _tell(logging.INFO, "%s: left out %s: no audio", str(root), listed)


@cache
def _tell(level: int, message: str, *values: str) -> None:
    """Log this once: a folder is searched for every split."""
    log.log(level, message, *map(printable, values))
