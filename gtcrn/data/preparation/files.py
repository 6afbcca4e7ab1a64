"""The audio files that go into a job, and those that come out of it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gtcrn.data import audio
from gtcrn.data.manifest import FACTS, FILE, AudioFile, Manifest, facts_of
from gtcrn.data.preparation.jobs import WorkItem
from gtcrn.data.preparation.output import OutputFolder
from gtcrn.data.tables import write_table
from gtcrn.errors import UserError

# all columns that a manifest may have; a table has those of them that were asked for
MANIFEST = [*FACTS, pa.field("speaker", pa.string()), pa.field("sha256", pa.string())]
_BLOCK = 300  # s that are read at once, so that a long file takes no more memory


class FileItems:
    """The files of a manifest as work items (see `jobs.WorkItems`), named by their paths in the corpus."""

    def __init__(self, manifest: Manifest):
        self.manifest = manifest

    def __len__(self) -> int:
        return len(self.manifest)

    def __getitem__(self, part: slice) -> FileItems:
        return FileItems(self.manifest.select(np.arange(*part.indices(len(self)))))

    def __iter__(self) -> Iterator[WorkItem]:
        for name, file in zip(self.names(), self.manifest):
            yield WorkItem(name, str(file.path), file, [audio.container(file.path)])

    def names(self) -> list[str]:
        """Return the path of each file relative to the corpus; a packed file has the path from before it was packed."""
        return self._strings("name" if "name" in self.manifest.table.column_names else "path")

    def paths(self) -> list[Path]:
        """Return the path from which each file is read."""
        return [self.manifest.root / path for path in self._strings("path")]

    def _strings(self, column: str) -> list[str]:
        values, chosen = self.manifest.table[column], self.manifest.chosen
        return (values if chosen is None else values.take(pa.array(chosen))).to_pylist()

    def check_names(self, with_suffix: bool) -> None:
        """Raise UserError if two files would be written as one, or one would lie outside the output folder."""
        seen: dict[str, str] = {}
        for name in self.names():
            if name.startswith("/") or "/../" in f"/{name}":
                raise UserError(f"{self.manifest.file}: {name} is no path below the folder of its corpus")
            key = name if with_suffix else name.rpartition(".")[0]
            if key in seen:
                raise UserError(f"input: {seen[key]} and {name} would become one file; rename one of them")
            seen[key] = name


def blocks(file: AudioFile, length: int | None = None, hop: int | None = None) -> Iterator[np.ndarray]:
    """Yield all of a file in blocks, (N, C) float32 each; or pieces of `length` samples that begin every `hop` samples.

    The last one may be shorter. Raises UserError if the file is not what its manifest says.
    """
    length = length or _BLOCK * file.rate
    for start in range(0, file.frames, hop or length):
        block, rate = audio.read(file.path, start, length)
        if rate != file.rate or len(block) != min(length, file.frames - start):
            raise UserError(f"{file.path}: truncated, or changed since its manifest was made")
        if not np.isfinite(block).all():
            raise UserError(f"{file.path}: NaN or infinite samples")
        yield block.reshape(len(block), -1)
        if start + length >= file.frames:
            return


@dataclass(frozen=True)
class AudioFormat:
    """A format in which audio is written. subtype: by libsndfile's name."""

    suffix: str
    subtype: str

    def gain(self, peak: float) -> float:
        """Return the factor that keeps a wave with this peak from clipping; 1 where it does not clip."""
        return 1.0 if peak <= 1 or self.subtype == "FLOAT" else (1 - 2**-15) / float(peak)

    def named(self, name: str) -> str:
        """Return the name with this format's suffix."""
        return f"{name.rpartition('.')[0]}{self.suffix}"

    def write(self, path: Path, waves: Iterable[np.ndarray], rate: int, channels: int) -> float:
        """Write waves, (N,) or (N, C), one after another into one file, and return their peak.

        Raises UserError for more channels than the format holds.
        """
        if channels > 8 and self.suffix == ".flac":
            raise UserError(
                f"{channels} channels, of which FLAC holds 8; prepare.format=wav or float has room for them"
            )
        peak = 0.0
        with audio.encoding(path, path, rate, channels, self.subtype) as file:
            for wave in waves:
                peak = max(peak, float(np.abs(wave).max(initial=0)))
                file.write(wave)
        return peak


FORMATS = {
    "flac": AudioFormat(".flac", "PCM_16"),
    "wav": AudioFormat(".wav", "PCM_16"),
    "float": AudioFormat(".wav", "FLOAT"),
}


def audio_format(name: str) -> AudioFormat:
    if name not in FORMATS:
        raise UserError(f"prepare.format={name} is not one of {', '.join(FORMATS)}")
    return FORMATS[name]


def manifest_row(path: Path, name: str, speaker: str, checksum: bool) -> dict:
    """Return the manifest's row for the file at `path`, which will be named `name`. Raises UserError if it is bad."""
    facts = facts_of(path)
    if facts["problem"]:
        raise UserError(f"{name} would be {facts['problem']}")
    row = {"path": name, **facts, "speaker": speaker}
    return row | {"sha256": sha256(path)} if checksum else row


def write_manifest(rows: pa.Table, output: OutputFolder) -> None:
    """Write the manifest of the output folder, in the order in which a search of the folder would find the files."""
    order = pc.sort_indices(pa.array([_order_of(name) for name in rows["path"].to_pylist()]))
    schema = pa.schema([column for column in MANIFEST if column.name in rows.column_names])
    with output.writing(FILE) as partial:
        write_table(rows.select(schema.names).cast(schema).take(order), partial)


def manifest_table(manifest: Manifest, folder: Path) -> pa.Table:
    """Return the table of a manifest, with its speakers, as it is to be written into `folder`."""
    table, chosen = manifest.table, manifest.chosen
    table = table if chosen is None else table.take(pa.array(chosen))
    table = table.select([name for name in table.column_names if name not in ("stamp", "speaker")])
    table = table.append_column("speaker", pa.array(manifest.speakers(), pa.string()))
    elsewhere = manifest.root.absolute() != folder.absolute()
    return table.replace_schema_metadata({"root": str(manifest.root.absolute())} if elsewhere else None)


def _order_of(name: str) -> str:
    """Return a key that sorts paths as a search finds them: first the files of a folder, then those of its folders."""
    *folders, last = name.split("/")
    return "".join(f"\1{folder}\0" for folder in folders) + f"\0{last}"


def span(path: Path) -> tuple[Path, int, int]:
    """Return where a file, which may be packed, lies: the file on disk, the offset in it, and the size, in bytes."""
    container = audio.container(path)
    packed = str(path).removeprefix(str(container))  # "@1536+48213"
    if not packed:
        return path, 0, path.stat().st_size
    offset, size = packed[1:].split("+")
    return container, int(offset), int(size)


def content(path: Path) -> bytes:
    """Return the bytes of a file, packed or not. Raises UserError if they can't be read."""
    try:
        container, offset, size = span(path)
        with open(container, "rb") as file:
            file.seek(offset)
            return file.read(size)
    except OSError as error:
        raise UserError(f"{path}: not readable: {error.strerror}") from error


def sha256(path: Path) -> str:
    return hashlib.sha256(content(path)).hexdigest()
