"""Jobs over a corpus, which use all cores, can be shared by several machines, and can be interrupted and resumed.

The work items of a job are cut into parts, at most a thousand. A run that has done a part leaves a record of it in the
folder `.prepare` of the output: the result of every item, and the stamps of its input files. From this follows:

- An item is done again only if it has no record, its record names a problem, its input files have changed since, or
  a file made from it is missing or older than they are.
- Each machine takes every n-th part. The one that finds the records of all parts there, whoever made them, writes the
  tables of the whole job.
- A file is written in a folder of its run within `.prepare` and moved to its name when it is whole. What a killed
  run leaves behind lies only there, and the next start of that run clears it away.
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
from gtcrn.data.preparation.output import RECORDS, OutputError, OutputFolder
from gtcrn.data.scan import BadFile
from gtcrn.errors import UserError
from gtcrn.workers import parallel

log = logging.getLogger(__name__)

FAILURES = "failures.csv"
_PARTS = 1000


@dataclass(frozen=True)
class WorkItem:
    """One piece of the work of a job, e.g. a file to be resampled.

    name: unique in the job. title: its name in messages. value: what the step works on, e.g. an `AudioFile`.
    inputs: the files on disk that it is made from.
    """

    name: str
    title: str
    value: Any
    inputs: Sequence[Path] = ()


class WorkItems(Protocol):
    """Any number of work items. A slice takes little memory, and the names are known without reading any item."""

    def __len__(self) -> int: ...

    def __getitem__(self, part: slice) -> WorkItems: ...

    def __iter__(self) -> Iterator[WorkItem]: ...

    def names(self) -> list[str]: ...


class NumberedItems:
    """Work items that are made of nothing but their numbers (see `WorkItems`)."""

    def __init__(self, numbers: range):
        self.numbers = numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, part: slice) -> NumberedItems:
        return NumberedItems(self.numbers[part])

    def __iter__(self) -> Iterator[WorkItem]:
        return (WorkItem(name, f"item {number}", number) for number, name in zip(self.numbers, self.names()))

    def names(self) -> list[str]:
        return [f"{number:07d}" for number in self.numbers]


@dataclass(frozen=True)
class Product:
    """The result of one work item.

    files: those written, relative to the output folder. tables: by name, rows of the tables of the whole job.
    bad: (title, problem) of what can't be used. counts: {what is counted: number} for the summary at the end.
    """

    files: Sequence[str] = ()
    tables: dict[str, list[dict]] = field(default_factory=dict)
    bad: Sequence[tuple[str, str]] = ()
    counts: dict[str, int] = field(default_factory=dict)


class PreparationStep(Protocol):
    """The operation that a job does on every work item. It is sent to the workers with every part, so it is small."""

    doing: str  # the label of the progress bar, e.g. "resampling"
    unit: str  # what the progress bar counts, e.g. "file"

    def make(self, item: WorkItem, output: OutputFolder) -> Product:
        """Do one item and return the result. Raises UserError if the item can't be used."""
        ...

    def finish(self, tables: dict[str, pa.Table], items: WorkItems, output: OutputFolder) -> None:
        """Write the tables of the whole job. tables: those of the products, and `failures` (path, problem)."""
        ...


@dataclass(frozen=True)
class Outcome:
    """The result of a run: of the whole job if it is complete, else of this run's share. counts: see `Product`."""

    complete: bool
    bad: list[BadFile]
    counts: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class _Part:
    record: str  # the file of its record, relative to the output folder
    which: slice  # its items among all of the job

    def do(
        self, items: WorkItems, step: PreparationStep, output: OutputFolder, again: bool
    ) -> tuple[int, list[tuple[str, str]]]:
        """Do the items of this part; return how many there are, and (title, problem) of those that can't be used."""
        known = {record["name"]: record for record in self.records(output)}
        records = []
        for item in items:
            record = known.get(item.name)
            stamps = [stamp(path) for path in item.inputs]
            if again or record is None or not _is_current(record, stamps, output):
                earlier = set(record["files"]) if record else set()
                record = {"name": item.name, "stamps": stamps, **vars(_make(step, item, output))}
                for name in earlier.difference(record["files"]):
                    (output.root / name).unlink(missing_ok=True)
            records.append(record)
        if records != list(known.values()):
            output.write_json(self.record, records)
        return len(records), [problem for record in records for problem in record["bad"]]

    def records(self, output: OutputFolder) -> list[dict]:
        file = output.root / self.record
        return json.loads(file.read_text()) if file.is_file() else []

    def is_done(self, output: OutputFolder, names: list[str]) -> bool:
        """Return whether there is a record of every item of this part. names: those of all items of the job."""
        return [record["name"] for record in self.records(output)] == names[self.which]


def _make(step: PreparationStep, item: WorkItem, output: OutputFolder) -> Product:
    try:
        return step.make(item, output)
    except OutputError:
        raise
    except UserError as error:
        return Product(bad=[(item.title, str(error).removeprefix(f"{item.title}: "))])


def _is_current(record: dict, stamps: list[list[int] | None], output: OutputFolder) -> bool:
    if record["bad"] or record["stamps"] != stamps:
        return False
    newest = max((changed for _, changed in filter(None, stamps)), default=0)
    written = [stamp(output.root / name) for name in record["files"]]
    return all(found and found[1] >= newest for found in written)


def run_job(
    step: PreparationStep,
    items: WorkItems,
    output: OutputFolder,
    bad: Sequence[BadFile] = (),
    workers: int | None = None,
    again: bool = False,
) -> Outcome:
    """Do this run's share of a job and, if nothing is left to do then, write the tables of the whole job.

    bad: files that are known beforehand to be bad. workers: processes, None for one per core. again: do what was done
    before once more.

    Raises UserError if none of the items can be used, and OutputError if the output can't be written.
    """
    size = max(1, ceil(len(items) / _PARTS))
    starts = range(0, len(items), size)
    parts = [
        _Part(f"{RECORDS}/part-{number:04d}-of-{len(starts):04d}.json", slice(start, start + size))
        for number, start in enumerate(starts)
    ]
    mine = parts[output.shard_index :: output.shard_count]
    found = [*bad, *_do_parts(mine, items, step, output, workers, again)]
    names = items.names()
    if not all(part.is_done(output, names) for part in parts):
        return Outcome(False, found)
    tables, problems, counts = _gather(parts, output)
    found = [*bad, *problems]
    tables["failures"] = _write_failures(found, output)
    if len(tables) == 1:
        raise UserError(f"nothing of the input is of use{f', e.g. {found[0]}' if found else ''}")
    step.finish(tables, items, output)
    current = {part.record for part in parts}
    for file in output.records_folder.glob("part-*"):
        if f"{RECORDS}/{file.name}" not in current:  # from when the corpus was smaller or larger
            file.unlink()
    return Outcome(True, found, counts)


def _write_failures(bad: Sequence[BadFile], output: OutputFolder) -> pa.Table:
    """Return the table of the bad files, and write it if there are any."""
    columns = {"path": [str(file.path) for file in bad], "problem": [file.problem for file in bad]}
    table = pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()})
    if bad:
        output.write_csv(FAILURES, table.to_pandas())
    else:
        (output.root / FAILURES).unlink(missing_ok=True)
    return table


def _do_parts(
    parts: Sequence[_Part],
    items: WorkItems,
    step: PreparationStep,
    output: OutputFolder,
    workers: int | None,
    again: bool,
) -> list[BadFile]:
    """Do the parts in parallel, log the bad files and return them."""
    found = []
    jobs = (joblib.delayed(part.do)(items[part.which], step, output, again) for part in parts)
    total = sum(len(range(*part.which.indices(len(items)))) for part in parts)
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


def _gather(parts: Sequence[_Part], output: OutputFolder) -> tuple[dict[str, pa.Table], list[BadFile], Counter]:
    """Return the tables, the bad files and the counts of all parts together, as their records state them."""
    pieces, bad, counts = {}, [], Counter()
    for part in parts:
        rows = {}
        for record in part.records(output):
            bad += [BadFile(Path(path), problem) for path, problem in record["bad"]]
            counts.update(record["counts"])
            for name, own in record["tables"].items():
                rows.setdefault(name, []).extend(own)
        for name, own in rows.items():
            if not own:
                continue
            columns = dict.fromkeys(column for row in own for column in row)
            pieces.setdefault(name, []).append(
                pa.table({column: [row.get(column) for row in own] for column in columns})
            )
    return {name: pa.concat_tables(some, promote_options="permissive") for name, some in pieces.items()}, bad, counts
