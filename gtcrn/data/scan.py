"""A look at every file before the first epoch, remembered until the file changes."""

import json
import os
import uuid
from dataclasses import dataclass, replace
from math import inf, isnan, log10
from pathlib import Path

import numpy as np
from tqdm.contrib.concurrent import thread_map

from gtcrn.data import audio
from gtcrn.data.cache import cache_folder, digest, stamp
from gtcrn.data.pairs import Pair


@dataclass(frozen=True)
class BadFile:
    path: Path
    problem: str  # in a few words: "missing", "2 channels where mono is needed" ...

    def __str__(self) -> str:
        return f"{self.path}: {self.problem}"


def scan(pairs: list[Pair], sample_rate: int, cache_dir: str | Path | None) -> tuple[list[Pair], list[BadFile]]:
    """Decodes every file once, in parallel, and sorts out the pairs that can't be trained on or scored.

    Returns the good pairs with length, rate and SNR filled in (an SNR already known stays), and what is wrong
    with the others. Files below `sample_rate` are bad; those above are for the caller to resample.
    """
    if not pairs:
        return [], []
    # One memory per corpus, so that another split of the same files needs no new scan.
    root = os.path.commonpath([path.absolute() for pair in pairs for path in (pair.noisy, pair.clean)])
    memory = cache_folder(cache_dir, "scans") / f"{digest(root, sample_rate)}.json"
    known = _recall(memory)

    keys = [f"{pair.noisy.absolute()}|{pair.clean.absolute()}" for pair in pairs]
    stamps = {key: [stamp(pair.noisy), stamp(pair.clean)] for key, pair in zip(keys, pairs)}
    new = {key: pair for key, pair in zip(keys, pairs) if key not in known or known[key]["stamps"] != stamps[key]}
    if new:
        rows = thread_map(
            lambda pair: _look_at(pair, sample_rate),
            new.values(),
            desc="checking files",
            unit="pair",
            disable=None,
        )
        known |= {key: {"stamps": stamps[key], **row} for key, row in zip(new, rows)}
        partial = memory.with_suffix(f".{uuid.uuid4().hex[:8]}.partial")
        partial.write_text(json.dumps(known))
        os.replace(partial, memory)

    good, bad = [], []
    for key, pair in zip(keys, pairs):
        row = known[key]
        if row["problems"]:
            bad += [BadFile(Path(path), problem) for path, problem in row["problems"]]
        else:
            snr = row["snr"] if isnan(pair.snr) else pair.snr
            good.append(replace(pair, snr=snr, frames=row["frames"], rate=row["rate"]))
    return good, bad


def _recall(memory: Path) -> dict[str, dict]:
    try:
        return json.loads(memory.read_text())
    except (OSError, ValueError):  # none yet, or damaged: what it held is found again
        return {}


def _look_at(pair: Pair, sample_rate: int) -> dict:
    problems = []
    for path, other in ((pair.noisy, pair.clean), (pair.clean, pair.noisy)):
        if not path.exists():
            problems.append((str(path), f"missing, while its other half {other} is there"))
        elif problem := audio.check(path, sample_rate):
            problems.append((str(path), problem))
    if problems:
        return {"problems": problems}
    (noisy, rate), (clean, clean_rate) = audio.read(pair.noisy), audio.read(pair.clean)
    if (len(noisy), rate) != (len(clean), clean_rate):
        problem = f"{len(noisy)} samples at {rate} Hz, but its clean half has {len(clean)} at {clean_rate} Hz"
        return {"problems": [(str(pair.noisy), problem)]}
    return {"problems": [], "frames": len(noisy), "rate": rate, "snr": measured_snr(noisy, clean)}


def measured_snr(noisy: np.ndarray, clean: np.ndarray) -> float:
    """10 log10(sum clean^2 / sum (noisy - clean)^2) in dB of two (N,) waves; inf if there is no noise."""
    clean = clean.astype(np.float64)
    noise = np.sum((noisy - clean) ** 2)
    return 10 * log10(np.sum(clean**2) / noise) if noise > 0 else inf
