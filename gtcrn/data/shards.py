"""Corpora packed into a few tar archives, for disks on which opening many small files is slow.

A packed folder holds `shard-000000.tar` ... and `shards.arrow`, which states where in them each file lies: `name`
(the path it had in the original folder), `path` (`shard-000000.tar@1536+48213`: offset and size in bytes) and the
columns of a manifest. The archives are plain tar, readable by any tool and as WebDataset.
"""

from pathlib import Path

from gtcrn.data.folders import search
from gtcrn.data.tables import MappedTable
from gtcrn.errors import UserError, printable

INDEX = "shards.arrow"


def subfolders(folder: Path) -> list[str]:
    """Return the names of the folders in a folder, packed or not."""
    if (folder / INDEX).is_file():
        return sorted({name.split("/")[0] for name in _names(folder) if "/" in name})
    return sorted(path.name for path in folder.iterdir() if path.is_dir())


def audio_files(folder: Path) -> dict[str, Path]:
    """Return {path relative to the folder: path to read} of the audio files in and below it, packed or not.

    Raises UserError if a folder can't be read.
    """
    for root in (folder, *folder.parents):
        if (root / INDEX).is_file():
            prefix = "" if root == folder else f"{folder.relative_to(root).as_posix()}/"
            found = zip(_names(root), MappedTable(root / INDEX).column("path"))
            return {name[len(prefix) :]: root / path for name, path in found if name.startswith(prefix)}
    files, unreadable = search(folder)
    for name, reason in unreadable.items():
        raise UserError(f"{folder / name}: {reason}")
    return {printable(name): folder / name for name in files}


def _names(folder: Path) -> list[str]:
    return MappedTable(folder / INDEX).column("name").tolist()
