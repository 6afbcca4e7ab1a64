"""Many small files in a few tar archives; see `gtcrn.data.shards` for how they are read."""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import pyarrow as pa

from gtcrn.data import audio
from gtcrn.data.cache import digest
from gtcrn.data.manifest import Manifest
from gtcrn.data.preparation.files import MANIFEST, Files, content, span
from gtcrn.data.preparation.jobs import InputFile, Product
from gtcrn.data.preparation.place import Place
from gtcrn.data.rows import write_rows
from gtcrn.data.shards import INDEX
from gtcrn.errors import UserError

_BLOCK = tarfile.BLOCKSIZE
_COLUMNS = [pa.field("name", pa.string()), *MANIFEST]


@dataclass(frozen=True)
class Shard:
    file: str  # shard-000000.tar
    members: Files
    digest: str  # of what they are and how large


class Shards:
    """Archives to be written, as sources (see `jobs.Sources`)."""

    def __init__(self, shards: Sequence[Shard]):
        self.shards = shards

    def __len__(self) -> int:
        return len(self.shards)

    def __getitem__(self, some: slice) -> Shards:
        return Shards(self.shards[some])

    def __iter__(self) -> Iterator[InputFile]:
        for name, shard in zip(self.names(), self.shards):
            inputs = list(dict.fromkeys(map(audio.container, shard.members.paths())))
            yield InputFile(name, shard.file, shard, inputs)

    def names(self) -> list[str]:
        return [f"{shard.file} {shard.digest}" for shard in self.shards]


class Pack:
    """Archives of at most `shard_mb` MB, or of one larger file, filled in the order of the corpus.

    They are plain tar, with the files' paths as names, so that WebDataset reads them too: its key of a file is all
    before the first dot of its name, e.g. `clean/p226_001`, and what follows, `wav`, the name of its field.
    Each archive depends on its files only, not on when, where and by whom it was written.
    checksum: of the files, SHA-256, in the index.
    """

    doing, unit = "packing", "shard"

    def __init__(self, shard_mb: float, checksum: bool):
        if shard_mb <= 0:
            raise UserError(f"prepare.shard_mb={shard_mb}: must be above 0")
        self.shard_bytes, self.checksum = shard_mb * 1e6, checksum

    def sources(self, manifest: Manifest) -> Shards:
        files = Files(manifest)
        files.check_names(with_suffix=True)
        sizes = [_size(path) for path in files.paths()]
        starts, filled = [], self.shard_bytes
        for number, size in enumerate(sizes):
            taken = _BLOCK + size + -size % _BLOCK
            if filled + taken > self.shard_bytes:
                starts.append(number)
                filled = 0
            filled += taken
        shards = []
        for number, (start, end) in enumerate(zip(starts, [*starts[1:], len(files)])):
            members = files[start:end]
            shards.append(Shard(f"shard-{number:06d}.tar", members, digest(members.names(), sizes[start:end])))
        return Shards(shards)

    def make(self, source: InputFile, place: Place) -> Product:
        shard, rows, bad = source.what, [], []
        with place.new(shard.file) as waiting, tarfile.open(waiting, "w", format=tarfile.PAX_FORMAT) as archive:
            for member in shard.members:
                try:
                    data = content(member.what.path)
                except UserError as error:
                    bad.append((member.title, str(error).removeprefix(f"{member.title}: ")))
                    continue
                entry = tarfile.TarInfo(member.name)  # by itself it tells no time and no owner
                entry.size = len(data)
                archive.addfile(entry, BytesIO(data))
                begin = archive.offset - (entry.size + -entry.size % _BLOCK)
                row = vars(member.what) | {"name": member.name, "path": f"{shard.file}@{begin}+{entry.size}"}
                rows.append(row | {"sha256": hashlib.sha256(data).hexdigest()} if self.checksum else row)
        return Product([shard.file], {"shards": rows}, bad)

    def finish(self, tables: dict[str, pa.Table], sources: Shards, place: Place) -> None:
        rows = tables["shards"]
        schema = pa.schema([column for column in _COLUMNS if column.name in rows.column_names])
        with place.new(INDEX) as waiting:
            write_rows(rows.select(schema.names).cast(schema), waiting)


def _size(path: Path) -> int:
    """Bytes of a file; 0 of a missing one, which is told of when its turn comes."""
    try:
        return span(path)[2]
    except OSError:
        return 0
