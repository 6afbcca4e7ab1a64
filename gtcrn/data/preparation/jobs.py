"""Jobs over a corpus: on all cores, on several machines, broken off and taken up again.

The sources of a job are cut into parts, at most a thousand. Whoever has done a part leaves a record of it in the
folder `.prepare` of the output: what came of every source, and the stamps of its files. All else follows from that:

- A source is done again only if it has no record, its record tells of a problem, its files have changed since, or
  a file made from it is missing or older than they are.
- Machines take every n-th part. Whichever finds the records of all parts there, whoever made them, writes the
  tables of the whole job.
- A file is written in a folder of its run within `.prepare` and moved to its name when it is whole. What a killed
  run leaves behind lies there alone, and the next start of that run clears it away.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path
from typing import Any, Protocol

import joblib
import pyarrow as pa
from joblib.externals.loky.process_executor import TerminatedWorkerError
from tqdm import tqdm

from gtcrn.data.cache import stamp
from gtcrn.data.preparation.place import HIDDEN, OutputError, Place
from gtcrn.data.scan import BadFile
from gtcrn.errors import UserError
from gtcrn.workers import parallel

log = logging.getLogger(__name__)

FAILURES = "failures.csv"
_PARTS = 1000


@dataclass(frozen=True)
class InputFile:
    """Something to be worked on.

    name: tells it from all others. title: what it is called in messages. what: for the step. inputs: the files that
    it is made of.
    """

    name: str
    title: str
    what: Any
    inputs: Sequence[Path] = ()


class InputFiles(Protocol):
    """Any number of sources; a slice of them is small, and its names are told without looking at each."""

    def __len__(self) -> int: ...

    def __getitem__(self, some: slice) -> InputFiles: ...

    def __iter__(self) -> Iterator[InputFile]: ...

    def names(self) -> list[str]: ...


@dataclass(frozen=True)
class Product:
    """What came of a source.

    files: those written, relative to the output folder. tables: by name, rows of the tables of the whole job.
    bad: (title, problem) of what was of no use. counts: of what is worth telling at the end.
    """

    files: Sequence[str] = ()
    tables: dict[str, list[dict]] = field(default_factory=dict)
    bad: Sequence[tuple[str, str]] = ()
    counts: dict[str, int] = field(default_factory=dict)


class PreparationStep(Protocol):
    """What is done with every source. It travels with every part, and so holds no long lists."""

    doing: str  # e.g. "resampling"
    unit: str  # what is counted, e.g. "file"

    def make(self, source: InputFile, place: Place) -> Product:
        """Raises UserError if the source is of no use."""
        ...

    def finish(self, tables: dict[str, pa.Table], sources: InputFiles, place: Place) -> None:
        """Writes what tells of the whole job. tables: those of the products, and `failures` (path, problem)."""
        ...


@dataclass(frozen=True)
class Outcome:
    """bad: of the whole job if it is complete, else of this run's share. counts: see `Product`."""

    complete: bool
    bad: list[BadFile]
    counts: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class _Part:
    record: str  # its file, relative to the output folder
    which: slice  # of all sources

    def do(
        self, sources: InputFiles, step: PreparationStep, place: Place, again: bool
    ) -> tuple[int, list[tuple[str, str]]]:
        """How many sources it has, and what of them is of no use. sources: those of the part."""
        known = {record["name"]: record for record in self.records(place)}
        records = []
        for source in sources:
            record = known.get(source.name)
            stamps = [stamp(path) for path in source.inputs]
            if again or record is None or not _is_current(record, stamps, place):
                earlier = set(record["files"]) if record else set()
                record = {"name": source.name, "stamps": stamps, **vars(_made(step, source, place))}
                for name in earlier.difference(record["files"]):
                    (place.root / name).unlink(missing_ok=True)
            records.append(record)
        if records != list(known.values()):
            place.write_json(self.record, records)
        return len(records), [problem for record in records for problem in record["bad"]]

    def records(self, place: Place) -> list[dict]:
        file = place.root / self.record
        return json.loads(file.read_text()) if file.is_file() else []

    def is_done(self, place: Place, names: list[str]) -> bool:
        """names: of all sources."""
        return [record["name"] for record in self.records(place)] == names[self.which]


def _made(step: PreparationStep, source: InputFile, place: Place) -> Product:
    try:
        return step.make(source, place)
    except OutputError:
        raise
    except UserError as error:
        return Product(bad=[(source.title, str(error).removeprefix(f"{source.title}: "))])


def _is_current(record: dict, stamps: list[list[int] | None], place: Place) -> bool:
    if record["bad"] or record["stamps"] != stamps:
        return False
    newest = max((changed for _, changed in filter(None, stamps)), default=0)
    written = [stamp(place.root / name) for name in record["files"]]
    return all(found and found[1] >= newest for found in written)


def carry_out(
    step: PreparationStep,
    sources: InputFiles,
    place: Place,
    bad: Sequence[BadFile] = (),
    workers: int | None = None,
    again: bool = False,
) -> Outcome:
    """Does this run's share of a job and, if nothing is left to do then, writes the tables of all of it.

    bad: what is known to be of no use beforehand. workers: processes, None for one per core. again: also what was
    done before.
    """
    size = max(1, ceil(len(sources) / _PARTS))
    starts = range(0, len(sources), size)
    parts = [
        _Part(f"{HIDDEN}/part-{number:04d}-of-{len(starts):04d}.json", slice(start, start + size))
        for number, start in enumerate(starts)
    ]
    mine = parts[place.shard_index :: place.shard_count]
    found = [*bad, *_each(mine, sources, step, place, workers, again)]
    names = sources.names()
    if not all(part.is_done(place, names) for part in parts):
        return Outcome(False, found)
    tables, problems, counts = _gathered(parts, place)
    found = [*bad, *problems]
    tables["failures"] = _tell_failures(found, place)
    if len(tables) == 1:
        raise UserError(f"nothing of the input is of use{f', e.g. {found[0]}' if found else ''}")
    step.finish(tables, sources, place)
    current = {part.record for part in parts}
    for file in place.hidden.glob("part-*"):
        if f"{HIDDEN}/{file.name}" not in current:  # of a smaller or larger corpus
            file.unlink()
    return Outcome(True, found, counts)


def _tell_failures(bad: Sequence[BadFile], place: Place) -> pa.Table:
    """The table of bad files, also written down if there are any."""
    columns = {"path": [str(file.path) for file in bad], "problem": [file.problem for file in bad]}
    table = pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()})
    if bad:
        place.write_csv(FAILURES, table.to_pandas())
    else:
        (place.root / FAILURES).unlink(missing_ok=True)
    return table


def _each(
    parts: Sequence[_Part], sources: InputFiles, step: PreparationStep, place: Place, workers: int | None, again: bool
) -> list[BadFile]:
    """Does the parts, in parallel, and says what of them is of no use."""
    found = []
    jobs = (joblib.delayed(part.do)(sources[part.which], step, place, again) for part in parts)
    total = sum(len(range(*part.which.indices(len(sources)))) for part in parts)
    with (
        parallel(),
        tqdm(total=total, desc=step.doing, unit=step.unit, disable=None) as bar,
    ):
        try:
            for count, bad in joblib.Parallel(workers or -1, batch_size=1, return_as="generator_unordered")(jobs):
                bar.update(count)
                for path, problem in bad:
                    found.append(BadFile(Path(path), problem))
                    log.warning("%s", found[-1])
        except TerminatedWorkerError:
            raise UserError(
                "a worker process was killed, perhaps for want of memory; the same command goes on, if need be "
                "with fewer workers=…"
            ) from None
    return found


def _gathered(parts: Sequence[_Part], place: Place) -> tuple[dict[str, pa.Table], list[BadFile], Counter]:
    """The tables, what is of no use and the counts of all parts."""
    pieces, bad, counts = {}, [], Counter()
    for part in parts:
        rows = {}
        for record in part.records(place):
            bad += [BadFile(Path(path), problem) for path, problem in record["bad"]]
            counts.update(record["counts"])
            for name, some in record["tables"].items():
                rows.setdefault(name, []).extend(some)
        for name, some in rows.items():
            if not some:
                continue
            columns = dict.fromkeys(column for row in some for column in row)
            pieces.setdefault(name, []).append(
                pa.table({column: [row.get(column) for row in some] for column in columns})
            )
    return {name: pa.concat_tables(some, promote_options="permissive") for name, some in pieces.items()}, bad, counts
