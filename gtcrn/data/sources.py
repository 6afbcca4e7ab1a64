"""Sources of items: a corpus of pairs, mixtures of speech, noise and rooms, or several of these together."""

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from gtcrn.data.datasets import BlendedDataset, Dataset, MixedDataset, PairedDataset
from gtcrn.data.epoch_order import apportion
from gtcrn.data.manifest import WeightedCorpus, open_corpora, usable
from gtcrn.data.mixing import Recipe
from gtcrn.data.pairs import FilePair, pair_table
from gtcrn.data.resampled import resampled
from gtcrn.data.scan import BadFile, scan
from gtcrn.data.speakers import split_of
from gtcrn.dsp.alignment import Aligned, Denoise
from gtcrn.errors import UserError, counted

log = logging.getLogger(__name__)

HELD_OUT = ("validation", "test")
_PROBES = 5  # crops of speech from which a denoiser's delay is measured
_SHORTEST = 0.5  # s; shorter noise would be repeated until it buzzes, and shorter speech is half a word


@dataclass(frozen=True)
class LoadingOptions:
    """The options that all sources of a run share; see `SpeechData`."""

    sample_rate: int
    segment_seconds: float
    seed: int
    short: str
    resample: str
    lowest_rate: int
    cache_dir: str | Path | None

    @property
    def segment(self) -> int:
        """Return the length of a training crop in samples."""
        return round(self.segment_seconds * self.sample_rate)


class Source(Protocol):
    """Anything that gives a dataset for each split."""

    def open(self, split: str, loading: LoadingOptions) -> tuple[Dataset, list[BadFile]]:
        """Return the items of `train`, `validation` or `test`, and the files that can't be used."""
        ...

    def tests_on(self) -> str:
        """Return what serves as the test set: `test`, the `validation` set, or `all` pairs, training ones too."""
        ...


class PairCorpus(Protocol):
    """Any corpus of pairs of files."""

    def pairs(self, split: str) -> list[FilePair]:
        """Return the pairs of `train`, `validation` or `test`, not yet scanned."""
        ...

    def tests_on(self) -> str:
        """Return what serves as the test set; see `Source`."""
        ...


class PairSource:
    """A source of pairs of files: crops of them in training, whole files otherwise."""

    def __init__(self, corpus: PairCorpus):
        self.corpus = corpus

    def open(self, split: str, loading: LoadingOptions) -> tuple[PairedDataset, list[BadFile]]:
        pairs, bad = scan(self.corpus.pairs(split), loading.lowest_rate, loading.cache_dir)
        if bad and not pairs:
            raise UserError(f"the {split} set has no good pair left, e.g. {bad[0]}")
        if loading.resample == "cache":
            pairs = resampled(pairs, loading.sample_rate, loading.cache_dir)
        segment = loading.segment if split == "train" else None
        table = pair_table(pairs, loading.cache_dir)
        return PairedDataset(table, loading.sample_rate, segment, loading.seed, loading.short), bad

    def tests_on(self) -> str:
        return self.corpus.tests_on()


class MixSource:
    """A source of mixtures: new ones in every training epoch, and always the same ones for validation and test.

    speech, noise, rir: see `open_corpora`; rir may be None. speaker: see `Manifest`.
    recipe: how mixtures are made.
    held_out: share of the speakers, noises and rooms that are held out for validation, and as large a one for test.
    held_out_by: `speaker`, or `file` to hold out files, whoever speaks in them.
    separate: {split: {role: path}} of the corpora for validation and test that replace a held-out share. One for
        validation alone is used for test too. None if the configuration has no keys for it.
    epoch_hours: length of an epoch; None for one crop of each speech file.
    fixed_items, fixed_seconds: number and length of the mixtures for validation, and again for test. All hold speech
        and noise as they were recorded, whatever the recipe's shares of items without, its speeds and its coloration.
    denoise: see `MixedDataset`; its delay is measured on the speech and removed.
    prefix: of the configuration's keys for speech, noise and rir, for the errors.

    Raises UserError if a setting is out of range.
    """

    def __init__(
        self,
        speech: str | list | Mapping,
        noise: str | list | Mapping,
        rir: str | list | Mapping | None,
        recipe: Recipe,
        speaker: str | None = None,
        held_out: float = 0.05,
        epoch_hours: float | None = None,
        fixed_items: int = 100,
        fixed_seconds: float = 6.0,
        denoise: Denoise | None = None,
        prefix: str = "data.",
        held_out_by: str = "speaker",
        separate: Mapping[str, Mapping[str, str | list | Mapping | None]] | None = None,
    ):
        for key, value in ((f"{prefix}speech", speech), (f"{prefix}noise", noise)):
            if not value:
                raise UserError(f"{key} is not set: give a folder, a list of files or a manifest, {key}=FOLDER")
        if not 0 < held_out < 0.5:
            raise UserError(f"data.held_out={held_out}: must lie between 0 and 0.5")
        if held_out_by not in ("speaker", "file"):
            raise UserError(f"data.held_out_by={held_out_by} is not one of speaker, file")
        if epoch_hours is not None and epoch_hours <= 0:
            raise UserError(f"data.epoch_hours={epoch_hours}: must be above 0")
        if fixed_items < 1 or fixed_seconds <= 0:
            raise UserError(f"data.fixed_items={fixed_items}, data.fixed_seconds={fixed_seconds}: must be above 0")
        self.paths, self.prefix = {"speech": speech, "noise": noise, "rir": rir}, prefix
        self.recipe, self.speaker, self.held_out, self.epoch_hours = recipe, speaker, held_out, epoch_hours
        self.fixed_items, self.fixed_seconds, self.denoise = fixed_items, fixed_seconds, denoise
        self.held_out_by, self.separate = held_out_by, separate
        self._aligned: Denoise | None = None
        self._opened = None

    def open(self, split: str, loading: LoadingOptions) -> tuple[MixedDataset, list[BadFile]]:
        corpora, bad = self._corpora(loading)
        parts = corpora[split]
        recipe, seconds, seed = self.recipe, loading.segment_seconds, loading.seed
        if split != "train":
            recipe = replace(recipe, noise_only=0.0, clean_only=0.0, noise_speed=(1.0, 1.0), coloration=0.0)
            seconds, seed = self.fixed_seconds, {"validation": 0, "test": 1}[split]
        items = self.fixed_items
        if split == "train":
            items = sum(len(corpus.files) for corpus in parts["speech"])
            if self.epoch_hours:
                items = max(1, round(self.epoch_hours * 3600 / seconds))
        dataset = MixedDataset(
            **parts,
            recipe=recipe,
            sample_rate=loading.sample_rate,
            segment=round(seconds * loading.sample_rate),
            items=items,
            seed=seed,
            short=loading.short,
            denoise=self._align(corpora["train"]["speech"], loading),
        )
        return dataset, bad

    def tests_on(self) -> str:
        only_validation = self._separate("speech", "validation") and not self._separate("speech", "test")
        return "validation" if only_validation else "test"

    def _align(self, speech: list[WeightedCorpus], loading: LoadingOptions) -> Denoise | None:
        """Return the denoiser without its delay, which is measured once, on a few crops of clean speech."""
        if self.denoise and not self._aligned:
            recipe = Recipe(reverb=0, clean_only=1)
            probes = MixedDataset(speech, [], [], recipe, loading.sample_rate, 2 * loading.sample_rate, _PROBES, seed=0)
            waves = [probes.explain(index).waves["clean"] for index in range(_PROBES)]
            self._aligned = Aligned(self.denoise, waves, max_delay=loading.sample_rate // 2)
            if delay := self._aligned.delay:
                milliseconds = 1000 * delay / loading.sample_rate
                log.info("the denoiser's output is late by %d samples (%.1f ms), taken out", delay, milliseconds)
        return self._aligned

    def _corpora(self, loading: LoadingOptions) -> tuple[dict[str, dict[str, list[WeightedCorpus]]], list[BadFile]]:
        """Return the corpora with their good files by split and role, and the bad files."""
        if self._opened is None:
            corpora, bad = {split: {} for split in ("train", *HELD_OUT)}, []
            for role, paths in self.paths.items():
                own, useless = self._good(role, paths, f"{self.prefix}{role}", loading)
                bad += useless
                separate = {split: given for split in HELD_OUT if (given := self._separate(role, split))}
                if "validation" in separate:
                    separate = {"test": separate["validation"]} | separate
                shares = [split for split in HELD_OUT if split not in separate]
                for split, part in self._split(role, own, shares).items():
                    corpora[split][role] = part
                for split, given in separate.items():
                    corpora[split][role], useless = self._good(role, given, f"{self.prefix}{split}_{role}", loading)
                    bad += useless
            self._opened = corpora, bad
        return self._opened

    def _separate(self, role: str, split: str) -> str | list | Mapping | None:
        return (self.separate or {}).get(split, {}).get(role)

    def _good(
        self, role: str, paths: str | list | Mapping | None, key: str, loading: LoadingOptions
    ) -> tuple[list[WeightedCorpus], list[BadFile]]:
        """Return the corpora of one role with their good files, and the bad ones."""
        corpora, bad = [], []
        speaker = self.speaker if role == "speech" else "file"
        for corpus in open_corpora(paths, key, loading.cache_dir, speaker) if paths else []:
            files, useless = usable(corpus.files, loading.lowest_rate, 0.0 if role == "rir" else _SHORTEST)
            bad += useless
            if not len(files):
                raise UserError(f"{key}: {corpus.name} has no good file left, e.g. {useless[0]}")
            corpora.append(replace(corpus, files=files))
        return corpora, bad

    def _split(self, role: str, corpora: list[WeightedCorpus], splits: list[str]) -> dict[str, list[WeightedCorpus]]:
        """Return the parts of the corpora for training and for each of `splits`.

        No speaker, noise or room is in two of them. Where there are too few noises or rooms to hold any out, all
        splits get all of them, with a warning. Raises UserError if there are too few speakers.
        """
        key = f"{self.prefix}{role}"
        by_speaker = role == "speech" and self.held_out_by == "speaker"
        if role == "speech":
            log.info("%s: %s", key, _speaker_summary(corpora))
        if not corpora or not splits:
            return {"train": corpora} | {split: [] for split in splits}
        files = [corpus.files for corpus in corpora]
        groups = np.concatenate([part.speakers() if by_speaker else part.names() for part in files])
        owners = split_of(groups, {split: self.held_out for split in splits})
        if owners is None and role == "speech":
            raise UserError(f"{key}: {_speaker_summary(corpora)}, too few to hold any out: {self._advice(by_speaker)}")
        if owners is None:
            warning = "%s: %s, too few to hold any out: the same ones train, validate and test"
            log.warning(warning, key, counted(len(groups), "file"))
            return dict.fromkeys(("train", *splits), corpora)
        members = {split: set(groups[owners == split]) for split in ("train", *splits)}
        assert sum(map(len, members.values())) == len(set(groups)), "a speaker, noise or room is in two splits"
        if by_speaker and (unknown := np.sum(groups == "")):
            log.warning("%s: %d files of unknown speakers are all used for training, none is held out", key, unknown)
        own = np.split(owners, np.cumsum([len(part) for part in files])[:-1])
        return {
            split: [
                replace(corpus, files=corpus.files.select(chosen == split))
                for corpus, chosen in zip(corpora, own)
                if (chosen == split).any()
            ]
            for split in members
        }

    def _advice(self, by_speaker: bool) -> str:
        """Return the user's ways out where there is too little speech to hold any out."""
        others = f"name other speech for validation ({self.prefix}validation_speech=FOLDER), or "
        if self.separate is None:  # this configuration has no such key
            others = ""
        if not by_speaker:
            return f"{others}cut it into pieces with task=prepare prepare=segment"
        return (
            f"{others}say how names state the speaker (data.speaker=prefix, folder or a regular expression), "
            "or hold out files, whoever speaks in them (data.held_out_by=file)"
        )


def _speaker_summary(corpora: list[WeightedCorpus]) -> str:
    """Return e.g. `206 speakers in 652 files (LibriSpeech 206; 309 files of unknown speakers)`."""
    files = [found for corpus in corpora for found in corpus.files.identify_speakers()]
    speakers = Counter(by for _, by in set(files) - {("", "")})
    by = [", ".join(f"{name} {count}" for name, count in speakers.most_common())] if speakers else []
    if unknown := files.count(("", "")):
        by.append(f"{counted(unknown, 'file')} of unknown speakers")
    return f"{counted(speakers.total(), 'speaker')} in {counted(len(files), 'file')} ({'; '.join(by)})"


class BlendSource:
    """A source that takes its items from several others.

    weights: shares of the items of a training epoch, by name. The epoch has as many items as all sources together; or,
        with `lead`, as many as make that source give all of its own.
    hours: instead of weights, how much of a source is in a training epoch; the others give all their items.

    Raises UserError for a weight or hours of 0 or less.
    """

    def __init__(
        self,
        sources: Mapping[str, Source],
        weights: Mapping[str, float] | None = None,
        lead: str | None = None,
        hours: Mapping[str, float] | None = None,
    ):
        for value in [*(weights or {}).values(), *(hours or {}).values()]:
            if value <= 0:
                raise UserError(f"data: a weight or hours of {value}: must be above 0")
        self.sources, self.weights, self.lead, self.hours = dict(sources), weights, lead, hours or {}

    def open(self, split: str, loading: LoadingOptions) -> tuple[BlendedDataset, list[BadFile]]:
        parts, bad = {}, []
        for name, source in self.sources.items():
            parts[name], useless = source.open(split, loading)
            bad += useless
        counts = {name: len(part) for name, part in parts.items()}
        if split == "train":
            counts |= {name: round(hours * 3600 / loading.segment_seconds) for name, hours in self.hours.items()}
            if self.weights:
                items = sum(counts.values())
                if self.lead:
                    items = round(counts[self.lead] * sum(self.weights.values()) / self.weights[self.lead])
                counts = dict(zip(parts, apportion(items, [self.weights[name] for name in parts])))
        return BlendedDataset(parts, counts, loading.seed), bad

    def tests_on(self) -> str:
        return max((source.tests_on() for source in self.sources.values()), key=("test", "validation", "all").index)


class SeparateTestSource:
    """A source that takes its test set from another source."""

    def __init__(self, source: Source, test_source: Source):
        self.source, self.test_source = source, test_source

    def open(self, split: str, loading: LoadingOptions) -> tuple[Dataset, list[BadFile]]:
        return (self.test_source if split == "test" else self.source).open(split, loading)

    def tests_on(self) -> str:
        return self.test_source.tests_on()
