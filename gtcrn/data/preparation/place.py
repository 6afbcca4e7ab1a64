"""The folder that a job writes into, and what keeps it whole."""

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

RECIPE = "prepare.json"
HIDDEN = ".prepare"


class OutputError(UserError):
    """What was to be written could not be: unlike a bad source, this ends the job."""


@dataclass(frozen=True)
class Place:
    """An output folder, as one of several runs sees it that share a job."""

    root: Path
    shard_index: int = 0
    shard_count: int = 1

    def __post_init__(self):
        if not 0 <= self.shard_index < self.shard_count:
            raise UserError(
                f"shard_index={self.shard_index} of shard_count={self.shard_count}: shares are counted from 0"
            )

    @property
    def hidden(self) -> Path:
        """The folder of records."""
        return self.root / HIDDEN

    @property
    def _work(self) -> Path:
        return self.hidden / f"run-{self.shard_index}-of-{self.shard_count}"

    @contextmanager
    def occupied(self) -> Iterator[None]:
        """Keeps other runs of the same share out, and clears away what a killed one left behind."""
        lock = FileLock(self._work.with_suffix(".lock"))
        try:
            with _telling(self.root):
                if self.root.is_dir() and not (self.root / RECIPE).is_file():
                    self._refuse_strangers()
                self.hidden.mkdir(parents=True, exist_ok=True)
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
    def new(self, name: str) -> Iterator[Path]:
        """Where to write what stands as `name` in the folder, whole, when the block has ended without an error."""
        waiting = self._work / f".{uuid.uuid4().hex}{Path(name).suffix}"  # its dot: no reader takes it for audio
        with _telling(self.root / name):
            try:
                yield waiting
                (self.root / name).parent.mkdir(parents=True, exist_ok=True)
                os.replace(waiting, self.root / name)
            finally:
                waiting.unlink(missing_ok=True)

    def write_json(self, name: str, content: object, indent: int | None = None) -> None:
        with self.new(name) as waiting:
            waiting.write_text(json.dumps(content, indent=indent) + "\n")

    def write_csv(self, name: str, table: pd.DataFrame) -> None:
        with self.new(name) as waiting:
            table.to_csv(waiting, index=False, float_format="%.6g")

    def agree(self, recipe: dict[str, object], adjustable: Sequence[str] = ()) -> None:
        """Writes down how what is in the folder is made; raises UserError if it was made in another way.

        adjustable: keys on which none of the files depends.
        """
        file = self.root / RECIPE
        wanted = json.loads(json.dumps(recipe))
        known = json.loads(file.read_text()) if file.is_file() else wanted
        for key in known | wanted:
            if known.get(key) != wanted.get(key) and key not in adjustable:
                raise UserError(
                    f"output={self.root}: was made with {key}={known.get(key)}, not {wanted.get(key)} "
                    f"(its {RECIPE} says so); name another folder, or delete this one"
                )
        if known != wanted or not file.is_file():
            self.write_json(RECIPE, wanted, indent=2)

    def _refuse_strangers(self) -> None:
        strangers = sorted(entry.name for entry in os.scandir(self.root) if entry.name != HIDDEN)
        if strangers:
            raise UserError(
                f"output={self.root}: holds {strangers[0]}, but no {RECIPE} of an earlier run; name a new folder"
            )


@contextmanager
def _telling(path: Path) -> Iterator[None]:
    """Turns what goes wrong in writing into one line."""
    try:
        yield
    except (OSError, soundfile.LibsndfileError) as error:
        reason = getattr(error, "strerror", None) or getattr(error, "error_string", None) or str(error)
        there = next(folder for folder in path.absolute().parents if folder.is_dir())
        free = shutil.disk_usage(there).free / 1e9
        raise OutputError(f"{path}: can't be written: {reason.rstrip('.')} ({free:.1f} GB free)") from error
