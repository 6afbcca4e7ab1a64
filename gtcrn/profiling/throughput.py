"""Throughput of training data, and the time and memory that the table of a huge corpus takes."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from math import nan
from pathlib import Path
from statistics import median
from types import ModuleType

import numpy as np
import pyarrow as pa

from gtcrn.data import audio, datasets
from gtcrn.data.datasets import Dataset
from gtcrn.data.manifest import FACTS, FILE
from gtcrn.data.mixing import Recipe
from gtcrn.data.speech import SpeechData, dns
from gtcrn.data.tables import write_table
from gtcrn.workers import begin

_FOLDERS = 1000  # speakers of the synthetic corpus


@dataclass(frozen=True)
class Throughput:
    """The throughput of a dataset in one process.

    real_time: seconds of (noisy) audio per second. decoding, mixing: shares of the time that reading and resampling
    files takes, and that mixing takes. over_decoding: ratio of the time to that of decoding alone, see
    `measure_throughput`.
    """

    items_per_second: float
    real_time: float
    decoding: float
    mixing: float
    over_decoding: float


def measure_throughput(dataset: Dataset, sample_rate: int, items: int = 200, repetitions: int = 5) -> Throughput:
    """Measure the throughput of the first items: the median of several passes, after one that fills the page cache.

    Decoding alone is plain soundfile on the same parts of the same files, without resampling, alternating with the
    passes.
    """
    keys = [divmod(number, len(dataset)) for number in range(items)]

    def draw() -> float:
        return sum(len(dataset[key]["noisy"]) for key in keys) / sample_rate

    seconds = draw()
    with _recorded(audio, "load") as loads, _recorded(datasets, "mix") as mixes:
        whole = _duration(draw)
    parts = [_part(*asked) for asked, _ in loads]

    def decode() -> None:
        for part in parts:
            audio.read(*part)

    times = [(_duration(draw), _duration(decode)) for _ in range(repetitions)]
    drawing, decoding = map(median, zip(*times))
    return Throughput(
        items_per_second=items / drawing,
        real_time=seconds / drawing,
        decoding=sum(took for _, took in loads) / whole,
        mixing=sum(took for _, took in mixes) / whole,
        over_decoding=drawing / decoding,
    )


@contextmanager
def _recorded(module: ModuleType, name: str) -> Iterator[list[tuple[tuple, float]]]:
    """Record the arguments and the seconds of every call of a module's function within the block."""
    calls, function = [], getattr(module, name)

    def recorded(*arguments):
        begin = time.perf_counter()
        result = function(*arguments)
        calls.append((arguments, time.perf_counter() - begin))
        return result

    setattr(module, name, recorded)
    try:
        yield calls
    finally:
        setattr(module, name, function)


def _part(path: str | Path, sample_rate: int, start: int = 0, frames: int = -1) -> tuple[str | Path, int, int]:
    """Convert the arguments of `audio.load` to those of `audio.read`, which counts frames of the file."""
    ratio = audio.info(path).samplerate / sample_rate
    return path, int(start * ratio), -1 if frames < 0 else round(frames * ratio)


def _duration(run: Callable) -> float:
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


@dataclass(frozen=True)
class LoaderThroughput:
    """The throughput of a training loader. first_batch: seconds until the first batch. real_time: see `Throughput`."""

    first_batch: float
    items_per_second: float
    real_time: float


def measure_loader(data: SpeechData, seconds: float = 5.0) -> LoaderThroughput:
    """Measure the throughput of the training loader for so long from the first batch on, over several epochs."""
    begin = time.perf_counter()
    batches = _endless(data)
    next(batches)
    started = time.perf_counter()
    items, samples = 0, 0
    while (elapsed := time.perf_counter() - started) < seconds:
        noisy = next(batches)["noisy"]
        items, samples = items + len(noisy), samples + noisy.numel()
    return LoaderThroughput(started - begin, items / elapsed, samples / data.sample_rate / elapsed)


def _endless(data: SpeechData) -> Iterator[dict]:
    loader = data.train_loader()
    for epoch in count():
        loader.sampler.set_epoch(epoch)
        yield from loader


@dataclass(frozen=True)
class TableCost:
    """The cost of the table of a corpus.

    rows: files in the table. open_seconds: time from its path to the first item. main, worker: MB (rss, pss, uss) by
    which the training process and its larger loader worker are larger than with a table of 1000 rows.
    """

    rows: int
    open_seconds: float
    main: dict[str, float]
    worker: dict[str, float]


def measure_table(rows: int, items: int = 3000) -> TableCost:
    """Measure the cost of a table with so many rows, the manifest of a synthetic corpus of speech to mix.

    items: how many are drawn before the memory is measured.
    """
    with tempfile.TemporaryDirectory() as folder:
        small, large = Path(folder, "small"), Path(folder, "large")
        _write_corpus(small, _FOLDERS)
        _write_corpus(large, rows)
        with _fresh_process() as process:
            _, *base = process.submit(_open_and_draw, small, small, items).result()
            seconds, *more = process.submit(_open_and_draw, large, small, items).result()
    main, worker = ({key: after[key] - before[key] for key in after} for before, after in zip(base, more))
    return TableCost(rows, seconds, main, worker)


def _fresh_process() -> ProcessPoolExecutor:
    """Return a process that shares no memory with this one, but starts its loader workers as this one would."""
    spawn = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(1, spawn, _begin, (multiprocessing.get_start_method(),))


def _begin(start_method: str) -> None:
    multiprocessing.set_start_method(start_method, force=True)
    begin()


def _write_corpus(folder: Path, rows: int) -> None:
    """Write a manifest whose paths all exist, as links to one folder whose files are links to one recording."""
    rate, files = 16000, -(-rows // _FOLDERS)
    names = [f"book_00000_chapter_0009_segment_{number:04d}.wav" for number in range(files)]
    wave = 0.1 * np.random.default_rng(0).standard_normal(rate, np.float32)
    audio.write(folder / "recordings" / names[0], wave, rate)
    for name in names[1:]:
        (folder / "recordings" / name).symlink_to(names[0])
    readers = [f"read_speech/reader_{number:05d}" for number in range(_FOLDERS)]
    (folder / "read_speech").mkdir()
    for reader in readers:
        (folder / reader).symlink_to("../recordings")
    paths = [f"{reader}/{name}" for name in names for reader in readers][:rows]
    facts = dict(seconds=1.0, frames=rate, rate=rate, channels=1, peak=0.4, rms=0.1, problem="")
    columns = [pa.array(paths), *(pa.repeat(pa.scalar(facts[name], FACTS.field(name).type), rows) for name in facts)]
    write_table(pa.table(columns, FACTS), folder / FILE)
    _drop_from_cache(folder / FILE)


def _drop_from_cache(file: Path) -> None:
    """Drop a file from the page cache, where the system has a call for it."""
    with file.open("rb") as opened:
        os.fsync(opened)
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _open_and_draw(speech: Path, noise: Path, items: int) -> tuple[float, dict[str, float], dict[str, float]]:
    """Return the seconds to the first item, and the memory of this process and its larger worker after many items."""
    begin = time.perf_counter()
    data = dns(
        speech=str(speech),
        noise=str(noise),
        rir=None,
        speaker="folder",
        recipe=Recipe(),
        held_out=0.05,
        epoch_hours=None,
        fixed_items=1,
        fixed_seconds=1.0,
        sample_rate=16000,
        segment_seconds=0.5,
        batch_size=8,
        num_workers=2,
        seed=0,
    )
    data.setup()
    _ = data.dataset("train")[0]
    seconds = time.perf_counter() - begin
    batches = _endless(data)
    for _ in range(items // data.batch_size):
        next(batches)
    workers = [_memory(process.pid) for process in multiprocessing.active_children()]
    return seconds, _memory(os.getpid()), max(workers, key=lambda memory: memory["pss"])


def _memory(process: int) -> dict[str, float]:
    """Return the memory of a process in MB.

    rss counts shared pages in full, pss divides them by the number of processes that share them, uss leaves them out.
    """
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()[1:]
    except OSError:  # only Linux tells
        return dict.fromkeys(("rss", "pss", "uss"), nan)
    megabytes = {
        name: int(kilobytes.split()[0]) * 1024 / 1e6 for name, kilobytes in (line.split(":") for line in lines)
    }
    uss = megabytes["Private_Clean"] + megabytes["Private_Dirty"]
    return {"rss": megabytes["Rss"], "pss": megabytes["Pss"], "uss": uss}
