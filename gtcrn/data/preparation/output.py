"""The output folder of a job, in which every file is whole and only one run works on each share of the job."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import soundfile
from filelock import FileLock, Timeout

from gtcrn.errors import UserError

SETTINGS = "prepare.json"
RECORDS = ".prepare"


class OutputError(UserError):
    """The output can't be written. Unlike a bad input file, this ends the job."""


@dataclass(frozen=True)
class OutputFolder:
    """An output folder, as seen by run `shard_index` (from 0) of the `shard_count` runs that share a job."""

    root: Path
    shard_index: int = 0
    shard_count: int = 1

    def __post_init__(self):
        if not 0 <= self.shard_index < self.shard_count:
            raise UserError(
                f"shard_index={self.shard_index} of shard_count={self.shard_count}: shares are counted from 0"
            )

    @property
    def records_folder(self) -> Path:
        """Return the hidden folder in which the job keeps its records."""
        return self.root / RECORDS

    @property
    def _work(self) -> Path:
        return self.records_folder / f"run-{self.shard_index}-of-{self.shard_count}"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other runs of the same share out, and clear away what a killed one left behind.

        Raises UserError if another run is writing there, or the folder holds other files; OutputError if it can't be
        written.
        """
        lock = FileLock(self._work.with_suffix(".lock"))
        try:
            with _one_line(self.root):
                if self.root.is_dir() and not (self.root / SETTINGS).is_file():
                    self._refuse_foreign_files()
                self.records_folder.mkdir(parents=True, exist_ok=True)
                try:
                    lock.acquire(timeout=0)
                except Timeout:
                    raise UserError(f"output={self.root}: another run is writing there; wait for its end") from None
                shutil.rmtree(self._work, ignore_errors=True)
                self._work.mkdir()
            yield
        finally:
            if lock.is_locked:
                shutil.rmtree(self._work, ignore_errors=True)
            lock.release()

    @contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        """Give a temporary path, which becomes the file `name` of the folder when the block ends without an error.

        Raises OutputError if it can't be written.
        """
        partial = self._work / f".{uuid.uuid4().hex}{Path(name).suffix}"  # hidden, so that no search takes it for audio
        with _one_line(self.root / name):
            try:
                yield partial
                (self.root / name).parent.mkdir(parents=True, exist_ok=True)
                os.replace(partial, self.root / name)
            finally:
                partial.unlink(missing_ok=True)

    def write_json(self, name: str, content: object, indent: int | None = None) -> None:
        with self.writing(name) as partial:
            partial.write_text(json.dumps(content, indent=indent) + "\n")

    def write_csv(self, name: str, table: pd.DataFrame) -> None:
        with self.writing(name) as partial:
            table.to_csv(partial, index=False, float_format="%.6g")

    def check_settings(self, settings: dict[str, object], adjustable: Sequence[str] = ()) -> None:
        """Record the settings that the folder's files are made with; raise UserError if it was made with others.

        adjustable: keys on which none of the files depends.
        """
        file = self.root / SETTINGS
        wanted = json.loads(json.dumps(settings))
        known = json.loads(file.read_text()) if file.is_file() else wanted
        for key in known | wanted:
            if known.get(key) != wanted.get(key) and key not in adjustable:
                raise UserError(
                    f"output={self.root}: was made with {key}={known.get(key)}, not {wanted.get(key)} "
                    f"(its {SETTINGS} says so); name another folder, or delete this one"
                )
        if known != wanted or not file.is_file():
            self.write_json(SETTINGS, wanted, indent=2)

    def _refuse_foreign_files(self) -> None:
        foreign = sorted(entry.name for entry in os.scandir(self.root) if entry.name != RECORDS)
        if foreign:
            raise UserError(
                f"output={self.root}: holds {foreign[0]}, but no {SETTINGS} of an earlier run; name a new folder"
            )


@contextmanager
def _one_line(path: Path) -> Iterator[None]:
    """Turn an error in writing `path` into an OutputError of one line."""
    try:
        yield
    except (OSError, soundfile.LibsndfileError) as error:
        reason = getattr(error, "strerror", None) or getattr(error, "error_string", None) or str(error)
        folder = next(folder for folder in path.absolute().parents if folder.is_dir())
        free = shutil.disk_usage(folder).free / 1e9
        raise OutputError(f"{path}: can't be written: {reason.rstrip('.')} ({free:.1f} GB free)") from error
