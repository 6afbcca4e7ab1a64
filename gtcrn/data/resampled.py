"""Resampled copies of a corpus, made once and kept in the cache."""

import logging
from dataclasses import replace
from pathlib import Path

from tqdm.contrib.concurrent import thread_map

from gtcrn.data import audio
from gtcrn.data.cache import cache_folder, digest, stamp
from gtcrn.data.pairs import FilePair
from gtcrn.errors import counted
from gtcrn.files import fitting

log = logging.getLogger(__name__)


def resampled(pairs: list[FilePair], sample_rate: int, cache_dir: str | Path | None) -> list[FilePair]:
    """Return scanned pairs in which those at another rate are replaced by copies at `sample_rate` (Hz) in the cache.

    The copies are 32-bit float WAV: nothing is rounded or clipped, and a crop is found without decoding the samples
    before it. Each appears whole or not at all, so an interrupted run goes on where it stopped, and its
    name changes with the original's path, size and time, so a changed original is copied anew.
    """
    folder = cache_folder(cache_dir, f"resampled-{sample_rate}")
    sources = {path for pair in pairs if pair.rate != sample_rate for path in pair.files}
    copies = {
        path: folder / f"{fitting(path.stem)}-{digest(str(path.absolute()), stamp(audio.container(path)))}.wav"
        for path in sources
    }
    missing = sorted(path for path, copy in copies.items() if not copy.exists())

    def copy(path: Path) -> None:
        wave, rate = audio.read(path)
        audio.write(copies[path], audio.resample(wave, rate, sample_rate), sample_rate, "FLOAT")

    if missing:
        log.info("resampling %s to %d Hz once, into %s", counted(len(missing), "file"), sample_rate, folder)
        thread_map(copy, missing, desc=f"resampling to {sample_rate} Hz", unit="file", disable=None)
    return [
        pair
        if pair.rate == sample_rate
        else replace(
            pair,
            noisy=copies[pair.noisy],
            clean=copies.get(pair.clean),
            frames=audio.resampled_length(pair.frames, pair.rate, sample_rate),
            rate=sample_rate,
        )
        for pair in pairs
    ]
