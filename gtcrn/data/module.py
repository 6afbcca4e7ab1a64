"""From a corpus to loaders: everything about data a training or evaluation run needs, without a framework."""

import logging
from pathlib import Path
from typing import Protocol

import torch
from torch.utils.data import DataLoader

from gtcrn.data.datasets import PairedDataset
from gtcrn.data.demo.corpus import Demo
from gtcrn.data.pairs import Pair
from gtcrn.data.resampled import resampled
from gtcrn.data.sampler import EpochSampler
from gtcrn.data.scan import BadFile, scan
from gtcrn.data.vctk_demand import VctkDemand
from gtcrn.errors import UserError

log = logging.getLogger(__name__)

SPLITS = ("train", "validation", "test")


class Corpus(Protocol):
    """Anything that can name its pairs."""

    def pairs(self, split: str) -> list[Pair]: ...


class SpeechData:
    """Loaders over the train, validation and test pairs of a corpus.

    sample_rate: Hz of everything the loaders give.
    segment_seconds: length of the training crops. Validation and test give whole files, one by one.
    batch_size, num_workers: of the training loader; num_workers of the others too.
    seed: with (epoch, index) it fixes every crop and with the epoch their order.
    short: files shorter than a crop are filled up with zeros (`pad`) or repeated (`wrap`).
    resample: files above `sample_rate` are copied once at that rate (`cache`) or resampled crop by crop
        (`on_the_fly`: no disk space, more work per item). Files below are bad files.
    on_bad_file: `fail` at set-up, naming them, or `skip` their pairs and list them in `bad_files`.
    cache_dir: where scans and copies are kept; None is the user's cache folder.
    """

    def __init__(
        self,
        corpus: Corpus,
        *,
        sample_rate: int,
        segment_seconds: float,
        batch_size: int,
        num_workers: int,
        seed: int,
        short: str = "pad",
        resample: str = "cache",
        on_bad_file: str = "fail",
        cache_dir: str | Path | None = None,
    ):
        choices = {
            "short": (short, ("pad", "wrap")),
            "resample": (resample, ("cache", "on_the_fly")),
            "on_bad_file": (on_bad_file, ("fail", "skip")),
        }
        for key, (value, allowed) in choices.items():
            if value not in allowed:
                raise UserError(f"data.{key}={value} is not one of {', '.join(allowed)}")
        if segment_seconds <= 0:
            raise UserError(f"data.segment_seconds={segment_seconds} must be above 0")
        if num_workers < 0:
            raise UserError(f"data.num_workers={num_workers} must be 0 or more")
        if batch_size < 1:
            raise UserError(f"data.batch_size={batch_size} must be 1 or more")
        self.corpus, self.sample_rate, self.segment_seconds = corpus, sample_rate, segment_seconds
        self.batch_size, self.num_workers, self.seed = batch_size, num_workers, seed
        self.short, self.resample, self.on_bad_file, self.cache_dir = short, resample, on_bad_file, cache_dir
        self._pairs: dict[str, list[Pair]] = {}
        self.bad_files: list[BadFile] = []  # of the splits set up so far

    def setup(self, splits: tuple[str, ...] = SPLITS) -> None:
        """Finds, checks and, where needed, resamples the files of these splits, if not done already.

        An evaluation sets up `("test",)` only, and then needs no training data. Raises UserError for bad
        files, all splits' at once, if they are not to be skipped.
        """
        new = [split for split in splits if split not in self._pairs]
        scanned = {split: scan(self.corpus.pairs(split), self.sample_rate, self.cache_dir) for split in new}
        if bad := [file for _, files in scanned.values() for file in files]:
            self._answer_to(bad)
        for split, (pairs, files) in scanned.items():
            if files and not pairs:
                raise UserError(f"the {split} set has no good pair left, e.g. {files[0]}")
            self._pairs[split] = (
                resampled(pairs, self.sample_rate, self.cache_dir) if self.resample == "cache" else pairs
            )
        trained = {pair.noisy for pair in self._pairs.get("train", ())}
        if shared := sum(pair.noisy in trained for pair in self._pairs.get("test", ())):
            log.warning(
                "%d of the test files are training files: their scores say nothing about new recordings",
                shared,
            )

    def _answer_to(self, bad: list[BadFile]) -> None:
        self.bad_files = list(dict.fromkeys(self.bad_files + bad))  # validation and test may share files
        if self.on_bad_file == "fail":
            named = "; ".join(map(str, self.bad_files[:3]))
            more = f"; and {len(self.bad_files) - 3} more" if len(self.bad_files) > 3 else ""
            raise UserError(
                f"{len(self.bad_files)} bad file(s): {named}{more}. "
                "Mend or remove them, or leave their pairs out with data.on_bad_file=skip"
            )
        names = "\n  ".join(map(str, self.bad_files))
        log.warning("left out the pairs of %d bad file(s):\n  %s", len(self.bad_files), names)

    @property
    def train_pairs(self) -> list[Pair]:
        return self._of("train")

    @property
    def validation_pairs(self) -> list[Pair]:
        return self._of("validation")

    @property
    def test_pairs(self) -> list[Pair]:
        return self._of("test")

    def _of(self, split: str) -> list[Pair]:
        if split not in self._pairs:
            raise RuntimeError(f'setup(("{split}",)) comes first')
        return self._pairs[split]

    def train_loader(self, epoch: int = 0, start: int = 0, rank: int = 0, world_size: int = 1) -> DataLoader:
        """Batches of random crops, (B, N) per wave; `loader.sampler.set_epoch(epoch)` goes on to another.

        epoch, start: to resume, the epoch and how many of its items this rank has already been given.
        rank, world_size: the share of this device; see `EpochSampler`.
        """
        pairs = self.train_pairs
        return DataLoader(
            PairedDataset(
                pairs, self.sample_rate, round(self.segment_seconds * self.sample_rate), self.seed, self.short
            ),
            self.batch_size,
            sampler=EpochSampler(len(pairs), self.seed, True, rank, world_size, epoch, start),
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=torch.cuda.is_available(),
        )

    def validation_loader(self) -> DataLoader:
        """Whole files in the order of their names, one per batch: waves are (1, N)."""
        return self._whole_files(self.validation_pairs)

    def test_loader(self) -> DataLoader:
        """As `validation_loader`."""
        return self._whole_files(self.test_pairs)

    def _whole_files(self, pairs: list[Pair]) -> DataLoader:
        return DataLoader(PairedDataset(pairs, self.sample_rate), 1, num_workers=self.num_workers)

    def describe(self) -> list[str]:
        """A line per split that is set up: `train: 11572 files, 9.41 h, 28 speakers, SNR 0.0 to 15.0 dB`."""
        lines = []
        for split, pairs in self._pairs.items():
            line = f"{split}: {len(pairs)} files"
            if pairs:
                minutes = sum(pair.seconds for pair in pairs) / 60
                length = f"{minutes / 60:.2f} h" if minutes >= 60 else f"{minutes:.1f} min"
                speakers = len({pair.speaker for pair in pairs})
                snrs = [pair.snr for pair in pairs]
                line += f", {length}, {speakers} speakers, SNR {min(snrs):.1f} to {max(snrs):.1f} dB"
            lines.append(line)
        return lines


def vctk_demand(
    root: str | None,
    train_sets: list[str],
    validation_speakers: list[str],
    validation_files: list[str] | None,
    test: str,
    suffix: str | None,
    **loading,
) -> SpeechData:
    """`data=vctk_demand`: see `VctkDemand`, and `SpeechData` for the other keys."""
    corpus = VctkDemand(root, train_sets, validation_speakers, validation_files, test, suffix)
    return SpeechData(corpus, **loading)


def demo(
    train_files: int,
    validation_files: int,
    test_files: int,
    corpus_seed: int,
    cache_dir: str | None,
    **loading,
) -> SpeechData:
    """`data=demo`: see `Demo`, and `SpeechData` for the other keys."""
    sizes = {"train": train_files, "validation": validation_files, "test": test_files}
    corpus = Demo(sizes, corpus_seed, loading["sample_rate"], cache_dir)
    return SpeechData(corpus, cache_dir=cache_dir, **loading)
