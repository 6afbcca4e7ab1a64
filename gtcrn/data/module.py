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
        if batch_size < 1:
            raise UserError(f"data.batch_size={batch_size} must be 1 or more")
        self.corpus, self.sample_rate, self.segment_seconds = corpus, sample_rate, segment_seconds
        self.batch_size, self.num_workers, self.seed = batch_size, num_workers, seed
        self.short, self.resample, self.on_bad_file, self.cache_dir = short, resample, on_bad_file, cache_dir
        self._pairs: dict[str, list[Pair]] = {}
        self.bad_files: list[BadFile] = []  # of the splits set up so far

    def setup(self, splits: tuple[str, ...] = SPLITS) -> None:
        """Finds, checks and, where needed, resamples the files of these splits; once, however often it is called.

        An evaluation sets up `("test",)` only, and then needs no training data.
        """
        for split in splits:
            if split not in self._pairs:
                self._pairs[split] = self._usable(split)

    def _usable(self, split: str) -> list[Pair]:
        pairs, bad = scan(self.corpus.pairs(split), self.sample_rate, self.cache_dir)
        if bad:
            named = "; ".join(map(str, bad[:3])) + ("; ..." if len(bad) > 3 else "")
            if self.on_bad_file == "fail":
                raise UserError(
                    f"{len(bad)} bad file(s) in the {split} set: {named}. "
                    "Mend or remove them, or leave their pairs out with data.on_bad_file=skip"
                )
            log.warning("left out the pairs of %d bad file(s) in the %s set:", len(bad), split)
            for file in bad:
                log.warning("  %s", file)
            self.bad_files += [file for file in bad if file not in self.bad_files]
            if not pairs:
                raise UserError(f"the {split} set has no good pair left: {named}")
        return resampled(pairs, self.sample_rate, self.cache_dir) if self.resample == "cache" else pairs

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
        """Batches of random crops, (B, N) per wave. `loader.sampler.set_epoch(epoch)` moves on to another epoch.

        epoch, start: to resume, the epoch and how many of its items this rank has already been given.
        rank, world_size: the share of this device; see `EpochSampler`.
        """
        pairs = self.train_pairs
        if not pairs:
            raise UserError("there is nothing to train on: the validation set takes every pair of data.root")
        return DataLoader(
            PairedDataset(pairs, self.sample_rate, round(self.segment_seconds * self.sample_rate), self.seed, self.short),
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
        """One line per split that is set up: `train: 11572 files, 9.41 h, 28 speakers, SNR 0.0 to 15.0 dB`."""
        lines = []
        for split, pairs in self._pairs.items():
            line = f"{split}: {len(pairs)} files"
            if pairs:
                hours = sum(pair.seconds for pair in pairs) / 3600
                speakers = len({pair.speaker for pair in pairs})
                snrs = [pair.snr for pair in pairs]
                line += f", {hours:.2f} h, {speakers} speakers, SNR {min(snrs):.1f} to {max(snrs):.1f} dB"
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
    train_files: int, validation_files: int, test_files: int, corpus_seed: int, cache_dir: str | None, **loading
) -> SpeechData:
    """`data=demo`: see `Demo`, and `SpeechData` for the other keys."""
    sizes = {"train": train_files, "validation": validation_files, "test": test_files}
    corpus = Demo(sizes, corpus_seed, loading["sample_rate"], cache_dir)
    return SpeechData(corpus, cache_dir=cache_dir, **loading)
