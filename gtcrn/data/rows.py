"""Tables with a row per file or pair, as large as they come: memory-mapped, so that all processes share one copy."""

import copy
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from gtcrn.data.cache import stamp
from gtcrn.errors import UserError
from gtcrn.files import whole

Row = TypeVar("Row")


class Rows(Sequence, Generic[Row]):
    """Some rows of an Arrow file (Feather), made into objects when they are asked for.

    file: also read is Parquet, which can't be mapped and so takes its memory in every process.
    chosen: numbers of the rows, in order; None for all of them.
    """

    def __init__(self, file: Path, chosen: np.ndarray | None = None):
        self.file, self.chosen = file, chosen
        self._stamp = stamp(file)
        _ = self.table  # what can't be read is told now

    @cached_property
    def table(self) -> pa.Table:
        """The whole file, whatever rows are chosen."""
        if stamp(self.file) != self._stamp:
            raise UserError(f"{self.file} was changed by another run while this one was starting; start again")
        try:
            if self.file.suffix == ".parquet":
                return pyarrow.parquet.read_table(self.file).combine_chunks()
            with pa.memory_map(str(self.file)) as source:
                return pa.ipc.open_file(source).read_all()
        except (OSError, pa.ArrowInvalid) as error:
            raise UserError(f"{self.file}: not readable as a table ({str(error).splitlines()[0]})") from error

    def make(self, values: dict) -> Row:
        """The object of one row."""
        raise NotImplementedError

    def __len__(self) -> int:
        return self.table.num_rows if self.chosen is None else len(self.chosen)

    def __getitem__(self, index: int) -> Row:
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        row = index % len(self) if self.chosen is None else int(self.chosen[index])
        return self.make({name: column.chunk(0)[row].as_py() for name, column in self._columns})

    def __iter__(self) -> Iterator[Row]:
        return (self[index] for index in range(len(self)))

    @cached_property
    def _columns(self) -> list[tuple[str, pa.ChunkedArray]]:
        return list(zip(self.table.column_names, self.table.columns))

    def column(self, name: str) -> np.ndarray:
        """(len(self),) values of one column."""
        values = self.table[name].to_numpy()
        return values if self.chosen is None else values[self.chosen]

    def select(self, rows: np.ndarray):
        """Those of these rows: numbers from 0 to len(self) - 1, or a mask."""
        some = copy.copy(self)
        some.chosen = np.arange(len(self))[rows] if self.chosen is None else self.chosen[rows]
        return some

    def __getstate__(self) -> dict:
        return {name: value for name, value in vars(self).items() if name not in ("table", "_columns")}


def write_rows(table: pa.Table, file: Path) -> None:
    """Writes a table whole or not at all; a process that has the old one open keeps it."""
    with whole(file) as partial:
        # one batch, so that a row is found without a search
        with pa.OSFile(str(partial), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table.combine_chunks(), max_chunksize=max(1, table.num_rows))
