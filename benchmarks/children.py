"""Hostile cases in worker processes: a crash, a hang or a lack of memory is attributed to the case that caused it.

Each part of the campaign is a module with two things, which `campaign` brings together:

    def cases(count: int, seed: int) -> Iterator[Case]    # small and picklable: what to make, e.g. (kind, seed)
    def check(case: Case) -> None                         # in the worker: makes it and lets the framework have it

`check` returns if the case was accepted and did no harm. It lets the framework's `UserError` through, which counts as
refused, and raises `Wrong` for an error that the framework did not report. Any other exception is a traceback that a
user would have seen, and so is a refusal of more than one line.
"""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import re
import resource
import signal
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any

from tqdm import tqdm

from gtcrn.errors import UserError

REFUSED, ACCEPTED = "refused in one line", "accepted, harmless"
TRACEBACK, CRASH, HANG, WRONG = "tracebacks", "crashes", "hangs", "wrong without a word"
OUTCOMES = (REFUSED, ACCEPTED, TRACEBACK, CRASH, HANG, WRONG)  # the columns of the table
WORKERS = 2
LIMIT = 60.0  # s that a case may take
MEMORY = 12 * 2**30  # bytes of address space that a worker may use; PyTorch alone takes several GiB of it
_START = 900.0  # s that a worker may take to import what it needs

Check = Callable[[Any], None]


class Wrong(Exception):
    """An error that the framework made with a case without reporting it."""


@dataclass
class Tally:
    """A row of the table, which counts the outcomes and keeps the first case of each kind of fault."""

    what: str
    counts: Counter = field(default_factory=Counter)
    faults: dict[tuple[str, str], tuple[int, Any]] = field(default_factory=dict)  # (outcome, note): (times, first case)

    def add(self, case: Any, outcome: str, note: str) -> None:
        self.counts[outcome] += 1
        if outcome not in (REFUSED, ACCEPTED):
            times, first = self.faults.get((outcome, note), (0, case))
            self.faults[outcome, note] = times + 1, first


def table(tallies: Iterable[Tally]) -> str:
    """Return the table in Markdown, and below it the count and the first case of each kind of fault."""
    lines = ["| what | tried | " + " | ".join(OUTCOMES) + " |", "|---|" + "---:|" * (len(OUTCOMES) + 1)]
    faults = []
    for tally in tallies:
        cells = [tally.what, tally.counts.total(), *(tally.counts[outcome] for outcome in OUTCOMES)]
        lines.append("| " + " | ".join(f"{cell:,}" if isinstance(cell, int) else cell for cell in cells) + " |")
        for (outcome, note), (times, case) in sorted(tally.faults.items(), key=lambda fault: -fault[1][0]):
            faults.append(f"- {tally.what}, {outcome}, {times} times: {note} (first with {case!r})")
    return "\n".join([*lines, *([""] + faults if faults else [])])


def campaign(
    what: str, check: Check, cases: Iterable[Any], total: int, workers: int = WORKERS, limit: float = LIMIT
) -> Tally:
    """Check every case in a worker and return the tally of their outcomes; a bar shows the progress.

    Ctrl-C ends the campaign with the tally of the cases so far.
    """
    tally = Tally(what)
    with tqdm(total=total, desc=what, unit="case") as bar, suppress(KeyboardInterrupt):
        for case, outcome, note in outcomes(check, cases, workers, limit):
            tally.add(case, outcome, note)
            bar.set_postfix({outcome: tally.counts[outcome] for outcome in OUTCOMES[2:] if tally.counts[outcome]})
            bar.update()
    return tally


def outcomes(
    check: Check, cases: Iterable[Any], workers: int = WORKERS, limit: float = LIMIT
) -> Iterator[tuple[Any, str, str]]:
    """Yield (case, outcome, note) in the order in which the cases end."""
    waiting = iter(cases)
    crew = [_Worker(check) for _ in range(workers)]
    try:
        while crew:
            ready = wait([worker.connection for worker in crew], timeout=1.0)
            for index, worker in reversed(list(enumerate(crew))):
                if worker.connection in ready:
                    verdict = worker.verdict()
                elif time.monotonic() - worker.since > (allowed := limit if worker.busy else _START):
                    verdict = HANG, f"more than {allowed:g} s"
                else:
                    continue
                if worker.busy and verdict is not None:
                    yield worker.case, *verdict
                if verdict is not None and verdict[0] in (CRASH, HANG):
                    if not worker.busy:
                        raise RuntimeError(f"a worker can't start: {verdict[1]}; {worker.last_words()}")
                    worker.end()
                    crew[index] = _Worker(check)
                    continue
                try:
                    worker.give(next(waiting))
                except StopIteration:
                    worker.end()
                    del crew[index]
    finally:
        for worker in crew:
            worker.end()


class _Worker:
    """A process that checks one case after another, and writes its output to a file of its own."""

    def __init__(self, check: Check):
        spawn = multiprocessing.get_context("spawn")
        self.connection, remote = spawn.Pipe()
        self.log = tempfile.NamedTemporaryFile(prefix="worker-", suffix=".log")
        self.process = spawn.Process(target=_work, args=(check, remote, self.log.name))
        self.process.start()
        remote.close()  # so that this end of the pipe closes when the process dies
        self.busy, self.case, self.since = False, None, time.monotonic()

    def give(self, case: Any) -> None:
        self.busy, self.case, self.since = True, case, time.monotonic()
        self.log.truncate(0)
        self.connection.send(case)

    def verdict(self) -> tuple[str, str] | None:
        """Return the outcome and its note, or None from a worker that has just started."""
        try:
            return self.connection.recv()
        except (EOFError, ConnectionResetError):
            self.process.join()
            code = self.process.exitcode
            name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            return CRASH, f"{name} {self.last_words()}".strip()

    def last_words(self) -> str:
        """Return the position in the framework where a worker died, or the last line that it wrote."""
        with open(self.log.name, errors="replace") as file:
            written = file.read()
        frames = re.findall(r'File ".*?/(gtcrn/[^"]+)", line (\d+) in (\S+)', written)
        return "in {}:{} {}".format(*frames[0]) if frames else (written.strip().splitlines() or [""])[-1]

    def end(self) -> None:
        """Kill the process and all that it has started."""
        if self.process.is_alive():
            try:
                os.killpg(self.process.pid, signal.SIGKILL)
            except ProcessLookupError:  # the process has no group of its own yet
                self.process.kill()
        self.process.join()
        self.connection.close()
        self.log.close()


def _work(check: Check, connection: Connection, log: str) -> None:
    os.setsid()
    with open(log, "ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    faulthandler.enable()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    connection.send(None)
    while True:
        try:
            case = connection.recv()
        except EOFError:  # the parent process is gone
            return
        connection.send(_judged(check, case))


def _judged(check: Check, case: Any) -> tuple[str, str]:
    try:
        check(case)
    except UserError as error:
        line = str(error)
        return (REFUSED, line) if len(line.splitlines()) == 1 else (TRACEBACK, f"not one line: {line!r}")
    except Wrong as error:
        return WRONG, str(error)
    except BaseException as error:
        frames = traceback.extract_tb(error.__traceback__)
        last = next((frame for frame in reversed(frames) if "/gtcrn/" in frame.filename), frames[-1])
        where = f"{last.filename.rpartition('/gtcrn/')[2]}:{last.lineno}"
        reason = re.sub(r"0x[0-9a-f]+", "0x…", (str(error).splitlines() or [""])[0])[:120]
        return TRACEBACK, f"{type(error).__name__} at {where}: {reason}"
    return ACCEPTED, ""
