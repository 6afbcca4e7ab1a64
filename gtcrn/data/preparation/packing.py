"""`prepare=pack` puts many small files into a few tar archives; see `gtcrn.data.shards` for how they are read."""

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
from gtcrn.data.preparation.files import MANIFEST, FileItems, content, span
from gtcrn.data.preparation.jobs import Product, WorkItem
from gtcrn.data.preparation.output import OutputFolder
from gtcrn.data.shards import INDEX
from gtcrn.data.tables import write_table
from gtcrn.errors import UserError

_BLOCK = tarfile.BLOCKSIZE
_COLUMNS = [pa.field("name", pa.string()), *MANIFEST]


@dataclass(frozen=True)
class Shard:
    """One archive to be written."""

    file: str  # shard-000000.tar
    members: FileItems
    digest: str  # of the names and sizes of its members


class ShardItems:
    """The archives to be written, as work items (see `jobs.WorkItems`)."""

    def __init__(self, shards: Sequence[Shard]):
        self.shards = shards

    def __len__(self) -> int:
        return len(self.shards)

    def __getitem__(self, part: slice) -> ShardItems:
        return ShardItems(self.shards[part])

    def __iter__(self) -> Iterator[WorkItem]:
        for name, shard in zip(self.names(), self.shards):
            inputs = list(dict.fromkeys(map(audio.container, shard.members.paths())))
            yield WorkItem(name, shard.file, shard, inputs)

    def names(self) -> list[str]:
        return [f"{shard.file} {shard.digest}" for shard in self.shards]


class Pack:
    """The step that packs a corpus, in its order, into archives of at most `shard_mb` MB, or of one larger file.

    They are plain tar, with the files' paths as names, so that WebDataset reads them too: its key of a file is all
    before the first dot of its name, e.g. `clean/p226_001`, and what follows, `wav`, is the name of its field.
    Each archive depends on its files only, not on when, where and by whom it was written.

    checksum: add the SHA-256 of every file to the index.
    """

    doing, unit = "packing", "shard"

    def __init__(self, shard_mb: float, checksum: bool):
        if shard_mb <= 0:
            raise UserError(f"prepare.shard_mb={shard_mb}: must be above 0")
        self.shard_bytes, self.checksum = shard_mb * 1e6, checksum

    def work_items(self, manifest: Manifest) -> ShardItems:
        files = FileItems(manifest)
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
        return ShardItems(shards)

    def make(self, item: WorkItem, output: OutputFolder) -> Product:
        shard: Shard = item.value
        rows, bad = [], []
        with output.writing(shard.file) as partial, tarfile.open(partial, "w", format=tarfile.PAX_FORMAT) as archive:
            for member in shard.members:
                try:
                    data = content(member.value.path)
                except UserError as error:
                    bad.append((member.title, str(error).removeprefix(f"{member.title}: ")))
                    continue
                entry = tarfile.TarInfo(member.name)  # its defaults hold no time and no owner
                entry.size = len(data)
                archive.addfile(entry, BytesIO(data))
                begin = archive.offset - (entry.size + -entry.size % _BLOCK)
                row = vars(member.value) | {"name": member.name, "path": f"{shard.file}@{begin}+{entry.size}"}
                rows.append(row | {"sha256": hashlib.sha256(data).hexdigest()} if self.checksum else row)
        return Product([shard.file], {"shards": rows}, bad)

    def finish(self, tables: dict[str, pa.Table], items: ShardItems, output: OutputFolder) -> None:
        rows = tables["shards"]
        schema = pa.schema([column for column in _COLUMNS if column.name in rows.column_names])
        with output.writing(INDEX) as partial:
            write_table(rows.select(schema.names).cast(schema), partial)


def _size(path: Path) -> int:
    """Return the bytes of a file; 0 for a missing one, which is reported when it is packed."""
    try:
        return span(path)[2]
    except OSError:
        return 0
