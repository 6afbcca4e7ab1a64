"""A look at every file before the first epoch, remembered until the file changes."""

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
from gtcrn.data.rows import recall, remember
from gtcrn.dsp.snr import measured_snr
from gtcrn.errors import printable

_SAVE_EVERY = 60  # s; a long scan that is interrupted goes on from there


@dataclass(frozen=True)
class BadFile:
    path: Path
    problem: str  # in a few words: "missing", "2 channels where mono is needed" ...

    def __str__(self) -> str:
        return printable(f"{self.path}: {self.problem}")


def remembered(
    memory: Path, keys: list[str], stamps: list[str], look: Callable[[str], dict], schema: pa.Schema, what: str
) -> pa.Table:
    """Return what `look(key)` says of every key, in their order: the columns of `schema`, the key the first of them.

    It is taken from the file `memory` where the key's stamp is in it. New and changed keys are looked at in parallel,
    with a progress bar that counts `what`, and added to the file.
    """
    name, columns = schema.names[0], schema.names
    schema = schema.append(pa.field("stamp", pa.string()))
    known = recall(memory, schema)
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

    with tqdm(total=len(new), desc="checking files", unit=what, disable=None) as bar:
        for first in range(0, len(new), 256):
            some = new[first : first + 256]
            seen = thread_map(lambda i: look(keys[i]), some, disable=True)
            fresh += [{name: keys[i], "stamp": stamps[i], **row} for i, row in zip(some, seen)]
            bar.update(len(some))
            if time.monotonic() - saved > _SAVE_EVERY:
                remember(together(), memory)
                saved = time.monotonic()
    if new:
        known = together()
        remember(known, memory)
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
    """Decodes every file once, in parallel, and sorts out the pairs that can't be trained on or scored.

    Returns the good pairs with length, rate and SNR filled in (an SNR already known stays), and what is wrong
    with the others. Files below `sample_rate` are bad; those above are for the caller to resample.
    """
    pairs = [pair if all(map(is_utf8, pair.files)) else replace(pair, problem=NO_UTF8) for pair in pairs]
    bad = [BadFile(pair.noisy, pair.problem) for pair in pairs if pair.problem]
    pairs = [pair for pair in pairs if not pair.problem]
    if not pairs:
        return [], bad
    # One memory per corpus, so that another split of the same files needs no new scan.
    root = os.path.commonpath([path.absolute() for pair in pairs for path in pair.files])
    memory = cache_folder(cache_dir, "scans") / f"{digest(root, sample_rate)}.seen"
    by_key = {"|".join(str(path.absolute()) for path in pair.files): pair for pair in pairs}
    stamps = ["|".join(str(stamp(audio.container(path))) for path in pair.files) for pair in by_key.values()]
    seen = remembered(memory, list(by_key), stamps, lambda key: _look_at(by_key[key], sample_rate), _PAIR, "pair")
    good = []
    for pair, row in zip(by_key.values(), seen.to_pylist()):
        if row["problems"]:
            bad += [BadFile(Path(path), problem) for path, problem in row["problems"]]
        else:
            snr = row["snr"] if isnan(pair.snr) else pair.snr
            good.append(replace(pair, snr=snr, frames=row["frames"], rate=row["rate"]))
    return good, bad


def _look_at(pair: FilePair, sample_rate: int) -> dict:
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
