"""The manifest of a corpus as it is."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet

from gtcrn.data import audio
from gtcrn.data.cache import cache_folder, digest, stamp
from gtcrn.data.manifest import TABLES, Manifest
from gtcrn.data.preparation.files import sha256, table_of
from gtcrn.data.preparation.jobs import FAILURES
from gtcrn.data.preparation.place import RECIPE
from gtcrn.data.rows import write_rows
from gtcrn.data.scan import remembered
from gtcrn.errors import UserError


def make_manifest(files: Manifest, file: Path, checksum: bool, cache_dir: str | Path | None) -> None:
    """Writes a manifest, Arrow or Parquet as `file` says, and beside it `failures.csv` if there are bad files.

    checksum: also of SHA-256. Those once found are remembered in `cache_dir`, as is what is known of the files.
    """
    if file.suffix not in TABLES:
        raise UserError(f"output={file}: a manifest is a file, {', '.join(TABLES)}")
    table = table_of(files, file.parent)
    if checksum:
        table = table.drop_columns([name for name in table.column_names if name == "sha256"])
        table = table.append_column("sha256", _checksums(files, cache_dir))
    failures = file.with_name(FAILURES)
    for name in (file.name, failures.name):
        for leftover in file.parent.glob(f".{name}.*.partial"):  # of a run that was killed
            leftover.unlink()
    bad = table.filter(pc.not_equal(table["problem"], "")).select(["path", "problem"]).to_pandas()
    if len(bad):
        bad["path"] = [str(files.root / path) for path in bad["path"]]
        with _whole(failures) as waiting:
            bad.to_csv(waiting, index=False)
    elif not file.with_name(RECIPE).is_file():  # a folder that was prepared has failures of its own to tell of
        failures.unlink(missing_ok=True)
    if file.suffix == ".parquet":
        with _whole(file) as waiting:
            pyarrow.parquet.write_table(table, waiting)
    else:
        write_rows(table, file)


@contextmanager
def _whole(file: Path) -> Iterator[Path]:
    """Where to write what becomes `file` when the block ends without an error."""
    waiting = file.with_name(f".{file.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        yield waiting
        os.replace(waiting, file)
    except OSError as error:
        raise UserError(f"{file}: can't be written ({error.strerror})") from error
    finally:
        waiting.unlink(missing_ok=True)


def _checksums(files: Manifest, cache_dir: str | Path | None) -> pa.ChunkedArray:
    """SHA-256 of every file, "" of one that can't be read."""

    def look(path: str) -> dict:
        try:
            return {"sha256": sha256(Path(path))}
        except UserError:
            return {"sha256": ""}

    paths = [str(files.root / path) for path in files.column("path")]
    stamps = [str(stamp(audio.container(path))) for path in paths]
    memory = cache_folder(cache_dir, "checksums") / f"{digest(str(files.root))}.seen"
    schema = pa.schema([("path", pa.string()), ("sha256", pa.string())])
    return remembered(memory, paths, stamps, look, schema, "file")["sha256"]
