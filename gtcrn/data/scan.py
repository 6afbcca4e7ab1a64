"""The scan: every file is decoded before the first epoch, and the result is cached until the file changes."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import isnan, nan
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from tqdm import tqdm
from tqdm.contrib.concurrent import thread_map

from gtcrn.data import audio
from gtcrn.data.cache import cache_folder, digest, stamp
from gtcrn.data.folders import NO_UTF8, is_utf8
from gtcrn.data.mixing import without_offset
from gtcrn.data.pairs import FilePair
from gtcrn.data.tables import read_cache, write_cache
from gtcrn.dsp.snr import measured_snr
from gtcrn.errors import printable

_SAVE_EVERY = 60  # s; an interrupted scan goes on from what was saved last


@dataclass(frozen=True)
class BadFile:
    """A file that can't be used, and why."""

    path: Path
    problem: str  # in a few words: "missing", "2 channels where mono is needed" ...

    def __str__(self) -> str:
        return printable(f"{self.path}: {self.problem}")


def cached_scan(
    cache: Path, keys: list[str], stamps: list[str], examine: Callable[[str], dict], schema: pa.Schema, unit: str
) -> pa.Table:
    """Return a row for every key, in their order: the key, and the other columns of `schema` as `examine(key)` gives
    them.

    A row is taken from the file `cache` where it is there with the key's stamp. New and changed keys are examined in
    parallel, with a progress bar that counts them in `unit`, and added to the file.
    """
    name, columns = schema.names[0], schema.names
    schema = schema.append(pa.field("stamp", pa.string()))
    known = read_cache(cache, schema)
    wanted = pa.table({"key": pa.array(keys, pa.string()), "stamp": pa.array(stamps, pa.string())})

    def rows_of_wanted() -> np.ndarray:
        rows = pc.fill_null(pc.index_in(wanted["key"], known[name].combine_chunks()), -1).to_numpy()
        if known.num_rows:
            rows = np.where(pc.equal(known["stamp"].take(np.maximum(rows, 0)), wanted["stamp"]), rows, -1)
        return rows

    new = np.flatnonzero(rows_of_wanted() < 0).tolist()
    outdated = pa.array([keys[i] for i in new], pa.string())
    known = known.filter(pc.invert(pc.is_in(known[name], outdated)))
    fresh: list[dict] = []
    saved = time.monotonic()

    def together() -> pa.Table:
        return pa.concat_tables([known, pa.Table.from_pylist(fresh, schema)])

    with tqdm(total=len(new), desc="checking files", unit=unit, disable=None) as bar:
        for first in range(0, len(new), 256):
            some = new[first : first + 256]
            examined = thread_map(lambda i: examine(keys[i]), some, disable=True)
            fresh += [{name: keys[i], "stamp": stamps[i], **row} for i, row in zip(some, examined)]
            bar.update(len(some))
            if time.monotonic() - saved > _SAVE_EVERY:
                write_cache(together(), cache)
                saved = time.monotonic()
    if new:
        known = together()
        write_cache(known, cache)
    return known.take(rows_of_wanted()).select(columns)


_PAIR = pa.schema(
    [
        ("files", pa.string()),  # joined by "|"
        ("problems", pa.list_(pa.list_(pa.string()))),  # [path, problem] each
        ("frames", pa.int64()),
        ("rate", pa.int32()),
        ("snr", pa.float64()),
    ]
)


def scan(pairs: list[FilePair], sample_rate: int, cache_dir: str | Path | None) -> tuple[list[FilePair], list[BadFile]]:
    """Decode every file once, in parallel, and separate the pairs that can't be trained on or scored.

    Returns the good pairs with length, rate and SNR filled in (an SNR already known stays), and what is wrong
    with the others. Files below `sample_rate` (Hz) are bad; the caller resamples those above.
    """
    pairs = [pair if all(map(is_utf8, pair.files)) else replace(pair, problem=NO_UTF8) for pair in pairs]
    bad = [BadFile(pair.noisy, pair.problem) for pair in pairs if pair.problem]
    pairs = [pair for pair in pairs if not pair.problem]
    if not pairs:
        return [], bad
    # One cache file per corpus, so that another split of the same files needs no new scan.
    root = os.path.commonpath([path.absolute() for pair in pairs for path in pair.files])
    cache = cache_folder(cache_dir, "scans") / f"{digest(root, sample_rate)}.seen"
    by_key = {"|".join(str(path.absolute()) for path in pair.files): pair for pair in pairs}
    stamps = ["|".join(str(stamp(audio.container(path))) for path in pair.files) for pair in by_key.values()]
    scanned = cached_scan(cache, list(by_key), stamps, lambda key: _examine(by_key[key], sample_rate), _PAIR, "pair")
    good = []
    for pair, row in zip(by_key.values(), scanned.to_pylist()):
        if row["problems"]:
            bad += [BadFile(Path(path), problem) for path, problem in row["problems"]]
        else:
            snr = row["snr"] if isnan(pair.snr) else pair.snr
            good.append(replace(pair, snr=snr, frames=row["frames"], rate=row["rate"]))
    return good, bad


def _examine(pair: FilePair, sample_rate: int) -> dict:
    """Return the row of a pair, but for the key: its length, rate and SNR, or its problems."""
    problems, facts = [], []
    for path in pair.files:
        if not os.path.exists(audio.container(path)):
            other = "".join(f", while its other half {half} is there" for half in pair.files if half != path)
            problems.append((str(path), f"missing{other}"))
            continue
        facts.append(audio.examine(path))
        problem = facts[-1].problem
        if not problem and facts[-1].channels != 1:
            problem = f"{facts[-1].channels} channels where mono is needed"
        if not problem and facts[-1].rate < sample_rate:
            problem = audio.wrong_rate(facts[-1].rate, sample_rate)
        if problem:
            problems.append((str(path), problem))
    if problems:
        return {"problems": problems}
    row = {"problems": [], "frames": facts[0].frames, "rate": facts[0].rate, "snr": nan}
    if pair.clean is None:
        return row
    frames, rate = facts[1].frames, facts[1].rate
    if (frames, rate) != (row["frames"], row["rate"]):
        problem = f"{row['frames']} samples at {row['rate']} Hz, but its clean half has {frames} at {rate} Hz"
        return {"problems": [(str(pair.noisy), problem)]}
    if isnan(pair.snr):
        noisy, clean = (without_offset(audio.read(path)[0]) for path in (pair.noisy, pair.clean))
        row["snr"] = measured_snr(noisy, clean)
    return row
