"""Datasets of items for training and scoring.

Each item is a pure function of (seed, epoch, index): it depends neither on workers and devices nor on earlier items.

An item is `dict(noisy=(N,), clean=(N,), name, snr, noise, index)`: waves float32 at the dataset's sample rate, snr in
dB, noise a word for its kind or "".
A recording without a clean half has no `clean`. A key is `(epoch, index)`, or the index alone for epoch 0.
"""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import soxr
import torch

from gtcrn.data import audio
from gtcrn.data.epoch_order import EpochOrder, apportion
from gtcrn.data.manifest import AudioFile, WeightedCorpus
from gtcrn.data.mixing import Recipe, mix, without_offset
from gtcrn.data.pairs import FilePair, PairTable
from gtcrn.data.seeding import generator
from gtcrn.dsp.alignment import Denoise
from gtcrn.errors import UserError, counted

log = logging.getLogger(__name__)

Key = tuple[int, int] | int
_REDRAWS = 3  # how often a silent crop is drawn again


@dataclass(frozen=True)
class ExplainedItem:
    """An item with its parts. waves: {name: (N,) float32}, `noisy` and its parts. facts: their files, SNR, level, …"""

    waves: dict[str, np.ndarray]
    facts: dict[str, object]


class Dataset(Protocol):
    """A dataset as the loaders need it."""

    def __len__(self) -> int: ...

    def __getitem__(self, key: Key) -> dict: ...

    def explain(self, key: Key) -> ExplainedItem:
        """Return the item that `[key]` gives with its parts and where they come from."""
        ...

    def describe(self) -> str:
        """Return a line on the size of the dataset, for the log."""
        ...

    def speakers(self) -> set[str]:
        """Return the speakers that are known."""
        ...


def _epoch_and_index(key: Key) -> tuple[int, int]:
    return key if isinstance(key, tuple) else (0, key)


def _fitted(wave: np.ndarray, frames: int, short: str) -> np.ndarray:
    """Return a wave of at most `frames` samples at that length, filled up with zeros (`pad`) or repeated (`wrap`)."""
    if len(wave) == frames:
        return wave
    return np.resize(wave, frames) if short == "wrap" else np.pad(wave, (0, frames - len(wave)))


def _length(seconds: float) -> str:
    return f"{seconds / 3600:.2f} h" if seconds >= 3600 else f"{seconds / 60:.1f} min"


class PairedDataset:
    """The pairs of a table as items. Their levels stay as they are.

    segment: N, the length of the crops in samples; None for whole files.
    short: what is done with a file shorter than the crop: `pad` with zeros at its end, or `wrap` around.
    """

    def __init__(
        self,
        pairs: PairTable,
        sample_rate: int,
        segment: int | None = None,
        seed: int = 0,
        short: str = "pad",
    ):
        self.pairs, self.sample_rate = pairs, sample_rate
        self.segment, self.seed, self.short = segment, seed, short

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, key: Key) -> dict:
        epoch, index = _epoch_and_index(key)
        pair = self.pairs[index]
        waves = self._waves(pair, self._start(pair, epoch, index))
        tensors = {role: torch.from_numpy(wave) for role, wave in waves.items()}
        return {**tensors, "name": pair.name, "snr": pair.snr, "noise": pair.noise, "index": index}

    def explain(self, key: Key) -> ExplainedItem:
        epoch, index = _epoch_and_index(key)
        pair = self.pairs[index]
        start = self._start(pair, epoch, index)
        waves = self._waves(pair, start)
        if pair.clean is not None:
            waves["noise"] = waves["noisy"] - waves["clean"]
        seconds = start / self.sample_rate
        facts = {"name": pair.name, "speaker": pair.speaker, "noisy": f"{pair.noisy} from {seconds:.2f} s"}
        return ExplainedItem(waves, facts | {"clean": str(pair.clean or ""), "snr": pair.snr})

    def describe(self) -> str:
        """Return e.g. `11,572 files, 9.41 h, 28 speakers, SNR 0.0 to 15.0 dB`."""
        seconds = np.sum(self.pairs.column("frames") / self.pairs.column("rate"))
        line = f"{counted(len(self), 'file')}, {_length(seconds)}, {counted(len(self.speakers()), 'speaker')}"
        snrs = self.pairs.column("snr")
        snrs = snrs[np.isfinite(snrs)]
        return f"{line}, SNR {snrs.min():.1f} to {snrs.max():.1f} dB" if len(snrs) else line

    def speakers(self) -> set[str]:
        return set(self.pairs.column("speaker")) - {""}

    def _start(self, pair: FilePair, epoch: int, index: int) -> int:
        if self.segment is None:
            return 0
        spare = audio.resampled_length(pair.frames, pair.rate, self.sample_rate) - self.segment
        return int(generator("crop", self.seed, epoch, index).integers(spare + 1)) if spare > 0 else 0

    def _waves(self, pair: FilePair, start: int) -> dict[str, np.ndarray]:
        """Return the waves of one crop: noisy and, where there is one, clean."""
        halves = zip(("noisy", "clean"), pair.files)
        if self.segment is None:
            return {role: audio.load(path, self.sample_rate) for role, path in halves}
        crops = {role: audio.load(path, self.sample_rate, start, self.segment) for role, path in halves}
        return {role: _fitted(crop, self.segment, self.short) for role, crop in crops.items()}


class MixedDataset:
    """Mixtures of speech, noise and room impulse responses, made on the fly.

    speech: every file is used before any is repeated, corpora in proportion to their weights.
    noise, rir: drawn at random, corpora by their weights; rir may be empty. Of a file with several channels one
        is drawn.
    segment: N, samples. items: how many there are in an epoch. short: see `PairedDataset`; noise is always repeated.
    denoise: a denoiser, (N,) -> (N,), whose output for the mixture is the item's `noisy`, to train restoration; None
        for none.
    """

    def __init__(
        self,
        speech: Sequence[WeightedCorpus],
        noise: Sequence[WeightedCorpus],
        rir: Sequence[WeightedCorpus],
        recipe: Recipe,
        sample_rate: int,
        segment: int,
        items: int,
        seed: int,
        short: str = "pad",
        denoise: Denoise | None = None,
    ):
        self.speech, self.noise, self.rir, self.recipe = speech, noise, rir, recipe
        self.sample_rate, self.segment, self.seed, self.short = sample_rate, segment, seed, short
        self.denoise = denoise
        counts = apportion(items, [corpus.weight for corpus in speech])
        self._order = EpochOrder([len(corpus.files) for corpus in speech], counts, seed)

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, key: Key) -> dict:
        _, index = _epoch_and_index(key)
        item = self.explain(key)
        waves = {role: torch.from_numpy(item.waves[role]) for role in ("noisy", "clean")}
        noise = _folders(item.facts["noise"])
        return {**waves, "name": item.facts["name"], "snr": item.facts["snr"], "noise": noise, "index": index}

    def explain(self, key: Key) -> ExplainedItem:
        epoch, index = _epoch_and_index(key)
        rng = generator("mix", self.seed, epoch, index)
        kind = rng.random()
        with_noise = not self.recipe.noise_only <= kind < self.recipe.noise_only + self.recipe.clean_only
        speech, rir, facts = None, None, {"name": f"{index:06d}"}
        if kind >= self.recipe.noise_only:
            corpus, _, row = self._order(epoch, index)
            file = self.speech[corpus].files[row]
            speech, source = self._audible_crop(rng, lambda: file, self.short, self.segment)
            facts |= {"name": f"{index:06d}_{file.path.stem}", "speaker": file.speaker, "speech": source}
        if self.rir and speech is not None and rng.random() < self.recipe.reverb:
            file = self._draw(self.rir, rng)
            rir = self._mono(audio.load(file.path, self.sample_rate), rng)
            facts["rir"] = str(file.path)
        count = int(rng.integers(self.recipe.noises[0], self.recipe.noises[1] + 1)) if with_noise else 0
        drawn = [self._noise(rng) for _ in range(count)]
        noises = [wave for wave, _ in drawn if wave is not None]
        facts["noise"] = "; ".join(source for wave, source in drawn if wave is not None)
        if speech is None and not noises:
            speech = np.zeros(self.segment, np.float32)
        mixture = mix(speech, noises, rir, self.sample_rate, self.recipe, rng)
        waves = {name: getattr(mixture, name) for name in ("noisy", "clean", "reverberation", "noise")}
        if self.denoise is not None:
            waves |= {"noisy": self.denoise(mixture.noisy), "mixture": mixture.noisy}
        facts |= {name: getattr(mixture, name) for name in ("snr", "level", "target", "band_limit")}
        return ExplainedItem(waves, facts)

    def describe(self) -> str:
        """Return e.g. `60,000 items of 4 s from 60,000 files, 500.00 h; noise: 60,000 files, 181.20 h; 3,000 rooms`."""
        line = f"{counted(len(self), 'item')} of {self.segment / self.sample_rate:g} s from {_sizes(self.speech)}"
        line += f"; noise: {_sizes(self.noise)}"
        rooms = sum(len(corpus.files) for corpus in self.rir)
        return f"{line}; {counted(rooms, 'room')}" if rooms else f"{line}; no rooms"

    def speakers(self) -> set[str]:
        return {speaker for corpus in self.speech for speaker in corpus.files.speakers()} - {""}

    def _noise(self, rng: np.random.Generator) -> tuple[np.ndarray | None, str]:
        """Return a crop (segment,) of noise at a speed of the recipe, and its file and time; None if all are silent."""
        slowest, fastest = self.recipe.noise_speed
        speed = float(rng.uniform(slowest, fastest)) if slowest < fastest else slowest
        length = math.ceil(self.segment * speed)
        noise, source = self._audible_crop(rng, lambda: self._draw(self.noise, rng), "wrap", length)
        if noise is None or speed == 1:
            return noise, source
        noise = soxr.resample(noise, self.sample_rate * speed, self.sample_rate, "LQ")[: self.segment]
        return _fitted(noise, self.segment, "wrap"), f"{source} at {speed:.2f} times its speed"

    def _audible_crop(
        self, rng: np.random.Generator, choose: Callable[[], AudioFile], short: str, length: int
    ) -> tuple[np.ndarray | None, str]:
        """Return a crop (length,) that is not silent, and its file and time; None if all draws are silent."""
        for _ in range(1 + _REDRAWS):
            file = choose()
            spare = audio.resampled_length(file.frames, file.rate, self.sample_rate) - length
            start = int(rng.integers(spare + 1)) if spare > 0 else 0
            wave = self._mono(audio.load(file.path, self.sample_rate, start, length), rng)
            wave = without_offset(wave) if len(wave) else wave
            if np.abs(wave).max(initial=0) >= audio.SILENCE:
                return _fitted(wave, length, short), f"{file.path} from {start / self.sample_rate:.2f} s"
        return None, f"{file.path}: silent where it was cut"

    @staticmethod
    def _draw(corpora: Sequence[WeightedCorpus], rng: np.random.Generator) -> AudioFile:
        weights = np.array([corpus.weight for corpus in corpora], float)
        files = corpora[int(rng.choice(len(corpora), p=weights / weights.sum()))].files
        return files[int(rng.integers(len(files)))]

    @staticmethod
    def _mono(wave: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return wave if wave.ndim == 1 else np.ascontiguousarray(wave[:, int(rng.integers(wave.shape[1]))])


def _folders(sources: str) -> str:
    """Return the names of the folders that noise comes from, which tell its kind, from the facts of an item."""
    files = (source.rsplit(" from ", 1)[0] for source in sources.split("; ") if source)
    return " and ".join(sorted({Path(file).parent.name for file in files}))


def _sizes(corpora: Sequence[WeightedCorpus]) -> str:
    files = sum(len(corpus.files) for corpus in corpora)
    shares = ""
    if len(corpora) > 1:
        total = sum(corpus.weight for corpus in corpora)
        shares = " (" + ", ".join(f"{corpus.name} {100 * corpus.weight / total:.0f} %" for corpus in corpora) + ")"
    seconds = sum(corpus.files.column("seconds").sum() for corpus in corpora)
    return f"{counted(files, 'file')}, {_length(seconds)}{shares}"


class BlendedDataset:
    """Several datasets in one. counts: how many items of each there are in an epoch, by its name."""

    def __init__(self, parts: Mapping[str, Dataset], counts: Mapping[str, int], seed: int):
        self.parts, self.counts = dict(parts), dict(counts)
        self._order = EpochOrder([len(part) for part in parts.values()], [counts[name] for name in parts], seed)

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, key: Key) -> dict:
        name, part, own_key = self._locate(key)
        item = part[own_key]
        return item | {"name": f"{name}_{item['name']}", "index": _epoch_and_index(key)[1]}

    def explain(self, key: Key) -> ExplainedItem:
        name, part, own_key = self._locate(key)
        item = part.explain(own_key)
        return ExplainedItem(item.waves, item.facts | {"name": f"{name}_{item.facts['name']}"})

    def describe(self) -> str:
        return "; ".join(f"{name}: {self.counts[name]} of {part.describe()}" for name, part in self.parts.items())

    def speakers(self) -> set[str]:
        return set().union(*(part.speakers() for part in self.parts.values()))

    def _locate(self, key: Key) -> tuple[str, Dataset, tuple[int, int]]:
        """Return the name of the dataset that an item is from, the dataset, and the item's key in it."""
        number, passes, row = self._order(*_epoch_and_index(key))
        name = list(self.parts)[number]
        return name, self.parts[name], (passes, row)


class SkipUnreadable:
    """A dataset in which an item that can't be read is replaced by the next one, with a warning."""

    def __init__(self, dataset: Dataset):
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: Key) -> dict:
        epoch, index = _epoch_and_index(key)
        for attempt in range(10):
            try:
                return self.dataset[epoch, (index + attempt) % len(self)]
            except UserError as error:
                log.warning("skipped: %s", error)
        raise UserError("ten items in a row can't be read; is the disk of the corpus still there?")
