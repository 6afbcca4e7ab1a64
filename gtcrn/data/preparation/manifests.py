"""`prepare=manifest` lists the files of a corpus in a table and leaves the files as they are."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet

from gtcrn.data import audio
from gtcrn.data.cache import cache_folder, digest, stamp
from gtcrn.data.manifest import TABLES, Manifest
from gtcrn.data.preparation.files import manifest_table, sha256
from gtcrn.data.preparation.jobs import FAILURES
from gtcrn.data.preparation.output import SETTINGS
from gtcrn.data.scan import cached_scan
from gtcrn.data.tables import write_table
from gtcrn.errors import UserError
from gtcrn.files import whole


def make_manifest(files: Manifest, file: Path, checksum: bool, cache_dir: str | Path | None) -> None:
    """Write a manifest, Arrow or Parquet by the suffix of `file`, and beside it `failures.csv` if there are bad files.

    checksum: add a column with the SHA-256 of every file. The checksums are kept in `cache_dir`, as is the scan of the
        files, until a file changes.

    Raises UserError if `file` has another suffix or can't be written.
    """
    if file.suffix not in TABLES:
        raise UserError(f"output={file}: a manifest is a file, {', '.join(TABLES)}")
    table = manifest_table(files, file.parent)
    if checksum:
        table = table.drop_columns([name for name in table.column_names if name == "sha256"])
        table = table.append_column("sha256", _checksums(files, cache_dir))
    failures = file.with_name(FAILURES)
    for leftover in file.parent.glob(f".{'?' * 12}.partial"):  # `whole` leaves them where it is killed
        leftover.unlink()
    bad = table.filter(pc.not_equal(table["problem"], "")).select(["path", "problem"]).to_pandas()
    if len(bad):
        bad["path"] = [str(files.root / path) for path in bad["path"]]
        with whole(failures) as partial:
            bad.to_csv(partial, index=False)
    elif not file.with_name(SETTINGS).is_file():  # in a prepared folder, failures.csv lists those of its preparation
        failures.unlink(missing_ok=True)
    if file.suffix == ".parquet":
        with whole(file) as partial:
            pyarrow.parquet.write_table(table, partial)
    else:
        write_table(table, file)


def _checksums(files: Manifest, cache_dir: str | Path | None) -> pa.ChunkedArray:
    """Return the SHA-256 of every file, "" for one that can't be read."""

    def examine(path: str) -> dict:
        try:
            return {"sha256": sha256(Path(path))}
        except UserError:
            return {"sha256": ""}

    paths = [str(files.root / path) for path in files.column("path")]
    stamps = [str(stamp(audio.container(path))) for path in paths]
    cache = cache_folder(cache_dir, "checksums") / f"{digest(str(files.root))}.seen"
    schema = pa.schema([("path", pa.string()), ("sha256", pa.string())])
    return cached_scan(cache, paths, stamps, examine, schema, "file")["sha256"]
