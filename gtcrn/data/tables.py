"""Tables with a row per file or pair. They are memory-mapped, so that all processes share one copy of a large one."""

import copy
from collections.abc import Iterator, Sequence
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from gtcrn.errors import UserError
from gtcrn.files import whole

Row = TypeVar("Row")


class MappedTable(Sequence, Generic[Row]):
    """Some rows of a table on disk, each made into an object when it is asked for.

    file: Arrow (Feather); or Parquet, which can't be mapped and so takes its memory in every process.
    chosen: numbers of the rows, in order; None for all of them.

    Raises UserError if the file is no readable table.
    """

    def __init__(self, file: Path, chosen: np.ndarray | None = None):
        self.file, self.chosen = file, chosen
        self._checksum: bytes | None = None
        _ = self.table  # so that a file which can't be read is reported here and not in the middle of an epoch

    @cached_property
    def table(self) -> pa.Table:
        """Return the table of the whole file, whatever rows are chosen.

        Other processes read the file again: raises UserError if it has changed since it was first read, or is damaged.
        """
        checksum, table = _read(self.file)
        if self._checksum not in (None, checksum):
            raise UserError(f"{self.file} was changed by another run while this one was starting; start again")
        self._checksum = checksum
        return table

    def from_row(self, values: dict) -> Row:
        """Return the object of one row, given as {column: value}."""
        raise NotImplementedError

    def __len__(self) -> int:
        return self.table.num_rows if self.chosen is None else len(self.chosen)

    def __getitem__(self, index: int) -> Row:
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        row = index % len(self) if self.chosen is None else int(self.chosen[index])
        return self.from_row({name: column.chunk(0)[row].as_py() for name, column in self._columns})

    def __iter__(self) -> Iterator[Row]:
        return (self[index] for index in range(len(self)))

    @cached_property
    def _columns(self) -> list[tuple[str, pa.ChunkedArray]]:
        return list(zip(self.table.column_names, self.table.columns))

    def column(self, name: str) -> np.ndarray:
        """Return the values of one column, (len(self),)."""
        values = self.table[name].to_numpy()
        return values if self.chosen is None else values[self.chosen]

    def select(self, rows: np.ndarray):
        """Return the part of this table with the given rows: numbers from 0 to len(self) - 1, or a mask."""
        part = copy.copy(self)
        part.chosen = np.arange(len(self))[rows] if self.chosen is None else self.chosen[rows]
        return part

    def __getstate__(self) -> dict:
        return {name: value for name, value in vars(self).items() if name not in ("table", "_columns")}


def _read(file: Path) -> tuple[bytes, pa.Table]:
    """Return the checksum and the table of a file, which is mapped once for both, so that they belong together."""
    try:
        with pa.memory_map(str(file)) as source:
            content = source.read_buffer()
        is_parquet = file.suffix == ".parquet"
        table = pyarrow.parquet.read_table(content) if is_parquet else pa.ipc.open_file(content).read_all()
        table.validate(full=True)  # an offset that leads out of the file would crash the interpreter later
    except (OSError, ValueError, pa.ArrowException) as error:
        raise UserError(f"{file}: not readable as a table ({str(error).splitlines()[0]})") from error
    return sha256(content).digest(), table.combine_chunks()


def write_table(table: pa.Table, file: Path) -> None:
    """Write a table whole or not at all. A process that has the old one open goes on with that."""
    with whole(file) as partial:
        partial.write_bytes(_content(table))


def write_by_content(table: pa.Table, folder: Path) -> Path:
    """Write a table into a folder of the cache, under a name that is a digest of its content, and return the file.

    So no other run ever changes it. A damaged file of that name is written anew.
    """
    content = _content(table)
    file = folder / f"{sha256(content).hexdigest()[:16]}.arrow"
    if not file.is_file() or file.read_bytes() != content:
        with whole(file) as partial:
            partial.write_bytes(content)
    return file


def write_cache(table: pa.Table, file: Path) -> None:
    """Write a table for `read_cache` into a file that other runs may replace at any time."""
    content = _content(table)
    with whole(file) as partial:
        partial.write_bytes(sha256(content).digest() + content)


def read_cache(file: Path, schema: pa.Schema) -> pa.Table:
    """Return the table that `write_cache` wrote.

    It is empty if there is no such file, or the file is damaged or has other columns than `schema`.
    """
    try:
        checksum, content = np.split(np.fromfile(file, np.uint8), [sha256().digest_size])
    except OSError:
        return schema.empty_table()
    if sha256(content).digest() != checksum.tobytes():
        return schema.empty_table()
    table = pa.ipc.open_file(pa.py_buffer(content)).read_all()
    return table if table.schema.equals(schema) else schema.empty_table()


def _content(table: pa.Table) -> bytes:
    """Return a table as the bytes of an Arrow file, in one batch, so that a row is found without a search."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table.combine_chunks(), max_chunksize=max(1, table.num_rows))
    return sink.getvalue().to_pybytes()
