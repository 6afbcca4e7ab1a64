"""Where items come from: a corpus of pairs, mixtures of speech, noise and rooms, or several of these together."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from gtcrn.data.datasets import BlendedDataset, Dataset, MixedDataset, PairedDataset
from gtcrn.data.manifest import Corpus, Manifest, held_out, open_corpora, usable
from gtcrn.data.mixing import Recipe
from gtcrn.data.pairs import Pair, tabled
from gtcrn.data.resampled import resampled
from gtcrn.data.scan import BadFile, scan
from gtcrn.data.turns import counts_of
from gtcrn.dsp.alignment import Aligned, Denoise
from gtcrn.errors import UserError

log = logging.getLogger(__name__)

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


class PairCorpus(Protocol):
    """Anything that can name its pairs."""

    def pairs(self, split: str) -> list[Pair]: ...


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


class MixSource:
    """Mixtures made while training, and always the same ones for validation and test.

    speech, noise, rir: see `open_corpora`; rir may be None. speaker: see `Manifest`.
    recipe: how mixtures are made.
    held_out: share of the speakers, noises and rooms that only validate, and as many again that only test.
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
    ):
        for key, value in ((f"{prefix}speech", speech), (f"{prefix}noise", noise)):
            if not value:
                raise UserError(f"{key} is not set: give a folder, a list of files or a manifest, {key}=FOLDER")
        if not 0 < held_out < 0.5:
            raise UserError(f"data.held_out={held_out}: must lie between 0 and 0.5")
        if epoch_hours is not None and epoch_hours <= 0:
            raise UserError(f"data.epoch_hours={epoch_hours}: must be above 0")
        if fixed_items < 1 or fixed_seconds <= 0:
            raise UserError(f"data.fixed_items={fixed_items}, data.fixed_seconds={fixed_seconds}: must be above 0")
        self.places, self.prefix = {"speech": speech, "noise": noise, "rir": rir}, prefix
        self.recipe, self.speaker, self.held_out, self.epoch_hours = recipe, speaker, held_out, epoch_hours
        self.fixed_items, self.fixed_seconds, self.denoise = fixed_items, fixed_seconds, denoise
        self._aligned: Denoise | None = None
        self._opened = None

    def open(self, split: str, loading: Loading) -> tuple[MixedDataset, list[BadFile]]:
        corpora, bad = self._corpora(loading)
        parts = {role: [replace(corpus, files=files[split]) for corpus, files in corpora[role]] for role in corpora}
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
            denoise=self._align(corpora, loading),
        )
        return dataset, bad

    def _align(self, corpora: dict[str, list[tuple[Corpus, dict[str, Manifest]]]], loading: Loading) -> Denoise | None:
        """The denoiser without its delay, which is measured once, on a few crops of clean speech."""
        if self.denoise and not self._aligned:
            speech = [replace(corpus, files=files["train"]) for corpus, files in corpora["speech"]]
            recipe = Recipe(reverb=0, clean_only=1)
            probes = MixedDataset(speech, [], [], recipe, loading.sample_rate, 2 * loading.sample_rate, _PROBES, seed=0)
            waves = [probes.explain(index).waves["clean"] for index in range(_PROBES)]
            self._aligned = Aligned(self.denoise, waves, max_delay=loading.sample_rate // 2)
            if delay := self._aligned.delay:
                milliseconds = 1000 * delay / loading.sample_rate
                log.info("the denoiser's output is late by %d samples (%.1f ms), taken out", delay, milliseconds)
        return self._aligned

    def _corpora(self, loading: Loading) -> tuple[dict[str, list[tuple[Corpus, dict[str, Manifest]]]], list[BadFile]]:
        """By role, the corpora with their good files by split; and the bad ones."""
        if self._opened is None:
            shares = {"validation": self.held_out, "test": self.held_out}
            corpora, bad = {}, []
            for role, places in self.places.items():
                speaker = self.speaker if role == "speech" else "file"
                key, corpora[role] = f"{self.prefix}{role}", []
                for corpus in open_corpora(places, key, loading.cache_dir, speaker) if places else []:
                    files, useless = usable(corpus.files, loading.lowest_rate, 0.0 if role == "rir" else _SHORTEST)
                    bad += useless
                    if not len(files):
                        raise UserError(f"{key}: {corpus.name} has no good file left, e.g. {useless[0]}")
                    what = f"{key} ({corpus.name}), {'speakers' if role == 'speech' else 'files'}"
                    corpora[role].append((corpus, held_out(files, shares, what)))
            self._opened = corpora, bad
        return self._opened


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


class TestedElsewhere:
    """A source whose test set is that of another one."""

    def __init__(self, source: Source, test_source: Source):
        self.source, self.test_source = source, test_source

    def open(self, split: str, loading: Loading) -> tuple[Dataset, list[BadFile]]:
        return (self.test_source if split == "test" else self.source).open(split, loading)
