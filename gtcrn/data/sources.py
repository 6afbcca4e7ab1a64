"""Where items come from: a corpus of pairs, mixtures of speech, noise and rooms, or several of these together."""

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from gtcrn.data.datasets import BlendedDataset, Dataset, MixedDataset, PairedDataset
from gtcrn.data.manifest import Corpus, open_corpora, usable
from gtcrn.data.mixing import Recipe
from gtcrn.data.pairs import FilePair, tabled
from gtcrn.data.resampled import resampled
from gtcrn.data.scan import BadFile, scan
from gtcrn.data.speakers import split_of
from gtcrn.data.turns import counts_of
from gtcrn.dsp.alignment import Aligned, Denoise
from gtcrn.errors import UserError

log = logging.getLogger(__name__)

HELD_OUT = ("validation", "test")
_PROBES = 5  # crops of speech from which a denoiser's delay is measured
_SHORTEST = 0.5  # s; noise that is repeated more often than this allows is a buzz, and speech half a word


@dataclass(frozen=True)
class Loading:
    """What all sources of a run share; see `SpeechData`."""

    sample_rate: int
    segment_seconds: float
    seed: int
    short: str
    resample: str
    lowest_rate: int
    cache_dir: str | Path | None

    @property
    def segment(self) -> int:
        """Samples of a training crop."""
        return round(self.segment_seconds * self.sample_rate)


class Source(Protocol):
    def open(self, split: str, loading: Loading) -> tuple[Dataset, list[BadFile]]:
        """The items of `train`, `validation` or `test`, and the files that are of no use."""
        ...

    def tests_on(self) -> str:
        """Return what the test set is: `test`, or the `validation` set, or `all` pairs, training ones too."""
        ...


class PairCorpus(Protocol):
    """Anything that can name its pairs."""

    def pairs(self, split: str) -> list[FilePair]: ...

    def tests_on(self) -> str:
        """See `Source`."""
        ...


class PairSource:
    """Pairs of files as they are: crops in training, whole files otherwise."""

    def __init__(self, corpus: PairCorpus):
        self.corpus = corpus

    def open(self, split: str, loading: Loading) -> tuple[PairedDataset, list[BadFile]]:
        pairs, bad = scan(self.corpus.pairs(split), loading.lowest_rate, loading.cache_dir)
        if bad and not pairs:
            raise UserError(f"the {split} set has no good pair left, e.g. {bad[0]}")
        if loading.resample == "cache":
            pairs = resampled(pairs, loading.sample_rate, loading.cache_dir)
        segment = loading.segment if split == "train" else None
        table = tabled(pairs, loading.cache_dir)
        return PairedDataset(table, loading.sample_rate, segment, loading.seed, loading.short), bad

    def tests_on(self) -> str:
        return self.corpus.tests_on()


class MixSource:
    """Mixtures made while training, and always the same ones for validation and test.

    speech, noise, rir: see `open_corpora`; rir may be None. speaker: see `Manifest`.
    recipe: how mixtures are made.
    held_out: share of the speakers, noises and rooms that only validate, and as many again that only test.
    held_out_by: `speaker`, or `file`, whoever speaks in it.
    apart: {split: {role: place}} of what validates and tests instead of a share; what only validates then tests too.
        None if the configuration has no keys for it.
    epoch_hours: of mixtures; None for one crop of each speech file.
    fixed_items, fixed_seconds: how many mixtures, and how long, validate; as many others test. They hold speech
        and noise, whatever the recipe's shares of items without.
    denoise: see `MixedDataset`; its delay is measured on the speech and taken out.
    prefix: of the configuration's keys for speech, noise and rir, for the errors.
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
        apart: Mapping[str, Mapping[str, str | list | Mapping | None]] | None = None,
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
        self.places, self.prefix = {"speech": speech, "noise": noise, "rir": rir}, prefix
        self.recipe, self.speaker, self.held_out, self.epoch_hours = recipe, speaker, held_out, epoch_hours
        self.fixed_items, self.fixed_seconds, self.denoise = fixed_items, fixed_seconds, denoise
        self.held_out_by, self.apart = held_out_by, apart
        self._aligned: Denoise | None = None
        self._opened = None

    def open(self, split: str, loading: Loading) -> tuple[MixedDataset, list[BadFile]]:
        corpora, bad = self._corpora(loading)
        parts = corpora[split]
        recipe, seconds, seed = self.recipe, loading.segment_seconds, loading.seed
        if split != "train":
            recipe = replace(recipe, noise_only=0.0, clean_only=0.0)
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
        return "validation" if self._apart("speech", "validation") and not self._apart("speech", "test") else "test"

    def _align(self, speech: list[Corpus], loading: Loading) -> Denoise | None:
        """The denoiser without its delay, which is measured once, on a few crops of clean speech."""
        if self.denoise and not self._aligned:
            recipe = Recipe(reverb=0, clean_only=1)
            probes = MixedDataset(speech, [], [], recipe, loading.sample_rate, 2 * loading.sample_rate, _PROBES, seed=0)
            waves = [probes.explain(index).waves["clean"] for index in range(_PROBES)]
            self._aligned = Aligned(self.denoise, waves, max_delay=loading.sample_rate // 2)
            if delay := self._aligned.delay:
                milliseconds = 1000 * delay / loading.sample_rate
                log.info("the denoiser's output is late by %d samples (%.1f ms), taken out", delay, milliseconds)
        return self._aligned

    def _corpora(self, loading: Loading) -> tuple[dict[str, dict[str, list[Corpus]]], list[BadFile]]:
        """By split and role, the corpora with their good files; and the bad ones."""
        if self._opened is None:
            corpora, bad = {split: {} for split in ("train", *HELD_OUT)}, []
            for role, places in self.places.items():
                own, useless = self._good(role, places, f"{self.prefix}{role}", loading)
                bad += useless
                apart = {split: place for split in HELD_OUT if (place := self._apart(role, split))}
                if "validation" in apart:
                    apart = {"test": apart["validation"]} | apart
                for split, part in self._split(role, own, [split for split in HELD_OUT if split not in apart]).items():
                    corpora[split][role] = part
                for split, place in apart.items():
                    corpora[split][role], useless = self._good(role, place, f"{self.prefix}{split}_{role}", loading)
                    bad += useless
            self._opened = corpora, bad
        return self._opened

    def _apart(self, role: str, split: str) -> str | list | Mapping | None:
        return (self.apart or {}).get(split, {}).get(role)

    def _good(
        self, role: str, places: str | list | Mapping | None, key: str, loading: Loading
    ) -> tuple[list[Corpus], list[BadFile]]:
        """Return the corpora of one role with their good files, and the bad ones."""
        corpora, bad = [], []
        speaker = self.speaker if role == "speech" else "file"
        for corpus in open_corpora(places, key, loading.cache_dir, speaker) if places else []:
            files, useless = usable(corpus.files, loading.lowest_rate, 0.0 if role == "rir" else _SHORTEST)
            bad += useless
            if not len(files):
                raise UserError(f"{key}: {corpus.name} has no good file left, e.g. {useless[0]}")
            corpora.append(replace(corpus, files=files))
        return corpora, bad

    def _split(self, role: str, corpora: list[Corpus], splits: list[str]) -> dict[str, list[Corpus]]:
        """Return what of the corpora trains, and what is held out for each of `splits`.

        No speaker, noise or room is in two of them. Where there are too few noises or rooms to hold any out, all
        splits get all of them, with a warning. Raises UserError for too few speakers.
        """
        key = f"{self.prefix}{role}"
        by_speaker = role == "speech" and self.held_out_by == "speaker"
        if role == "speech":
            log.info("%s: %s", key, _told(corpora))
        if not corpora or not splits:
            return {"train": corpora} | {split: [] for split in splits}
        files = [corpus.files for corpus in corpora]
        groups = np.concatenate([part.speakers() if by_speaker else part.names() for part in files])
        owners = split_of(groups, {split: self.held_out for split in splits})
        if owners is None and role == "speech":
            raise UserError(f"{key}: {_told(corpora)}, too few to hold any out: {self._advice(by_speaker)}")
        if owners is None:
            told = "%s: %d file(s), too few to hold any out: the same ones train, validate and test"
            log.warning(told, key, len(groups))
            return dict.fromkeys(("train", *splits), corpora)
        members = {split: set(groups[owners == split]) for split in ("train", *splits)}
        assert sum(map(len, members.values())) == len(set(groups)), "a speaker, noise or room is in two splits"
        if by_speaker and (untold := np.sum(groups == "")):
            log.warning("%s: %d files whose speakers nothing tells train, none of them is held out", key, untold)
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
        """Return how speech can be held out of which there is too little."""
        apart = "" if self.apart is None else f"name others that validate ({self.prefix}validation_speech=FOLDER), or "
        if not by_speaker:
            return f"{apart}cut it into pieces with task=prepare prepare=segment"
        return (
            f"{apart}say what tells speakers (data.speaker=prefix, folder or a regular expression), or hold out files, "
            "whoever speaks in them (data.held_out_by=file)"
        )


def _told(corpora: list[Corpus]) -> str:
    """Return e.g. `230 speakers in 652 files (LibriSpeech 206, VCTK 24; of 309 files nothing tells the speaker)`."""
    files = [teller for corpus in corpora for teller in corpus.files.tell_speakers()]
    speakers = Counter(by for _, by in set(files) - {("", "")})
    by = [", ".join(f"{name} {count}" for name, count in speakers.most_common())] if speakers else []
    if untold := files.count(("", "")):
        by.append(f"of {untold} files nothing tells the speaker")
    return f"{sum(speakers.values())} speaker(s) in {len(files)} file(s) ({'; '.join(by)})"


class BlendSource:
    """Several sources in every epoch.

    weights: shares of the items of a training epoch, by name. It is as long as all sources together; or, with
        `lead`, as makes that source give as many items as it has.
    hours: instead of weights, how much of a source is in a training epoch; of the others, all items.
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

    def open(self, split: str, loading: Loading) -> tuple[BlendedDataset, list[BadFile]]:
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
                counts = dict(zip(parts, counts_of(items, [self.weights[name] for name in parts])))
        return BlendedDataset(parts, counts, loading.seed), bad

    def tests_on(self) -> str:
        return max((source.tests_on() for source in self.sources.values()), key=("test", "validation", "all").index)


class TestedElsewhere:
    """A source whose test set is that of another one."""

    def __init__(self, source: Source, test_source: Source):
        self.source, self.test_source = source, test_source

    def open(self, split: str, loading: Loading) -> tuple[Dataset, list[BadFile]]:
        return (self.test_source if split == "test" else self.source).open(split, loading)

    def tests_on(self) -> str:
        return self.test_source.tests_on()
