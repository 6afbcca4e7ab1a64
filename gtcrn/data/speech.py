"""Everything about data that a training or evaluation run needs, from a corpus to loaders, without Lightning."""

import logging
import signal
from collections.abc import Callable, Mapping
from math import inf
from pathlib import Path
from typing import Any, Literal

import joblib
import numpy as np
from torch.utils.data import DataLoader

from gtcrn.data.datasets import Dataset, PairedDataset, SkipUnreadable
from gtcrn.data.demo.corpus import Demo
from gtcrn.data.dns_pairs import DnsPairs
from gtcrn.data.level import level_of
from gtcrn.data.mixing import Recipe
from gtcrn.data.noisy import NoisyRecordings
from gtcrn.data.sampler import EpochSampler
from gtcrn.data.scan import BadFile
from gtcrn.data.sources import BlendSource, LoadingOptions, MixSource, PairSource, SeparateTestSource, Source
from gtcrn.data.vctk_demand import VctkDemand
from gtcrn.dsp.alignment import Denoise
from gtcrn.errors import UserError, counted

log = logging.getLogger(__name__)

_LEVELS = 40  # items whose level is measured; for levels within 20 dB, as of mixtures, their median is right to 2 dB
_MOST_WORKERS = 8  # of `num_workers=auto`
SPLITS = ("train", "validation", "test")


class SpeechData:
    """The loaders of the training, validation and test items of a source.

    sample_rate: Hz of all waves that the loaders give.
    segment_seconds: length of the training crops. Validation and test give whole files, one by one.
    batch_size, num_workers: of the training loader; the others have as many workers and one file per batch. `auto` is a
        worker per core of this machine but one, up to 8, shared by the devices that train.
    prefetch: batches that each worker has ready.
    worker_timeout: seconds that a worker process may take for a batch; one that is stuck ends the run.
    seed: with (epoch, index) it determines every item, and with the epoch their order.
    short: files shorter than a crop are filled up with zeros (`pad`) or repeated (`wrap`).
    resample: pairs at another rate are copied once at `sample_rate` (`cache`) or resampled crop by crop
        (`on_the_fly`: no disk space, more work per item). Mixtures are always resampled on the fly.
    lowest_rate: Hz, below which files are bad, as they lack part of the band. None is `sample_rate`.
    on_bad_file: `fail` at set-up and name the bad files, or `skip` them and list them in `bad_files`; a file that
        becomes unreadable later ends the run, or is skipped with a warning.
    cache_dir: folder for scans and copies; None is the user's cache folder.

    Raises UserError if a setting is out of range.
    """

    def __init__(
        self,
        source: Source,
        *,
        sample_rate: int,
        segment_seconds: float,
        batch_size: int,
        num_workers: int | Literal["auto"],
        seed: int,
        prefetch: int = 2,
        worker_timeout: float = 120.0,
        short: str = "pad",
        resample: str = "cache",
        lowest_rate: int | None = None,
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
        if num_workers != "auto" and num_workers < 0:
            raise UserError(f"data.num_workers={num_workers} must be 0 or more")
        if prefetch < 1:
            raise UserError(f"data.prefetch={prefetch} must be 1 or more")
        if worker_timeout <= 0:
            raise UserError(f"data.worker_timeout={worker_timeout} must be above 0")
        if batch_size < 1:
            raise UserError(f"data.batch_size={batch_size} must be 1 or more")
        self.source, self.sample_rate, self.segment_seconds = source, sample_rate, segment_seconds
        self.batch_size, self.seed, self.on_bad_file = batch_size, seed, on_bad_file
        self.num_workers, self.prefetch, self.worker_timeout = num_workers, prefetch, worker_timeout
        self._loading = LoadingOptions(
            sample_rate, segment_seconds, seed, short, resample, lowest_rate or sample_rate, cache_dir
        )
        self._datasets: dict[str, Dataset] = {}
        self.bad_files: list[BadFile] = []  # those of the splits that are set up

    def setup(self, splits: tuple[str, ...] = SPLITS) -> None:
        """Find, check and, where needed, resample the files of these splits, unless that is done already.

        An evaluation sets up `("test",)` only, and then needs no training data. Raises UserError that names the bad
        files of all splits, if they are not to be skipped.
        """
        new = [split for split in splits if split not in self._datasets]
        opened = {split: self.source.open(split, self._loading) for split in new}
        if bad := [file for _, files in opened.values() for file in files]:
            self._handle_bad_files(bad)
        self._datasets |= {split: dataset for split, (dataset, _) in opened.items()}
        if "train" in new:
            self._warn_of_shared_speakers()
        train, test = self._datasets.get("train"), self._datasets.get("test")
        if isinstance(train, PairedDataset) and isinstance(test, PairedDataset):
            if shared := len(set(test.pairs.column("noisy")) & set(train.pairs.column("noisy"))):
                log.warning(
                    "%d of the test files are training files: their scores say nothing about new recordings",
                    shared,
                )

    def _warn_of_shared_speakers(self) -> None:
        """Warn of training speakers that are in other splits too, as may be where the user chose folders or files."""
        training = self._datasets["train"].speakers()
        for split in self._datasets.keys() - {"train"}:
            if shared := sorted(training & self._datasets[split].speakers()):
                named = ", ".join(shared[:5]) + (", …" if len(shared) > 5 else "")
                who = counted(len(shared), f"speaker of the {split} set trains", f"speakers of the {split} set train")
                log.warning("%s too: %s", who, named)

    def _handle_bad_files(self, bad: list[BadFile]) -> None:
        self.bad_files = list(dict.fromkeys(self.bad_files + bad))  # validation and test may share files
        if self.on_bad_file == "fail":
            named = "; ".join(map(str, self.bad_files[:3]))
            more = f"; and {len(self.bad_files) - 3} more" if len(self.bad_files) > 3 else ""
            raise UserError(
                f"{counted(len(self.bad_files), 'bad file')}: {named}{more}. "
                "Mend or remove them, or leave them out with data.on_bad_file=skip"
            )
        names = "\n  ".join(map(str, self.bad_files))
        log.warning("left out %s:\n  %s", counted(len(self.bad_files), "bad file"), names)

    def dataset(self, split: str) -> Dataset:
        """Return the items of a split that is set up."""
        if split not in self._datasets:
            raise RuntimeError(f'setup(("{split}",)) comes first')
        return self._datasets[split]

    def train_loader(
        self, epoch: int = 0, start: int = 0, rank: int = 0, world_size: int = 1, pin_memory: bool = False
    ) -> DataLoader:
        """Return the loader of batches of random crops, (B, N) per wave.

        `loader.sampler.set_epoch(epoch)` goes on to another epoch.

        epoch, start: to resume, the epoch and how many of its items this rank has already been given.
        rank, world_size: the share of this device; see `EpochSampler`.
        pin_memory: put the batches where a GPU fetches them fastest.
        """
        dataset, workers = self.dataset("train"), self._workers(world_size)
        return DataLoader(
            SkipUnreadable(dataset) if self.on_bad_file == "skip" else dataset,
            self.batch_size,
            sampler=EpochSampler(len(dataset), self.seed, True, rank, world_size, epoch, start),
            persistent_workers=workers["num_workers"] > 0,
            pin_memory=pin_memory,
            **workers,
        )

    def validation_loader(self) -> DataLoader:
        """Return the loader of whole files or mixtures, always in the same order, one per batch: waves are (1, N)."""
        return DataLoader(self.dataset("validation"), 1, **self._workers())

    def test_loader(self) -> DataLoader:
        """Return the loader of the test items, which are like those of `validation_loader`."""
        return DataLoader(self.dataset("test"), 1, **self._workers())

    def _workers(self, devices: int = 1) -> dict[str, Any]:
        """Return the options of a loader's worker processes, where so many devices have a loader each."""
        count = self.num_workers
        if count == "auto":
            count = min(_MOST_WORKERS, max(0, joblib.cpu_count() // devices - 1))
        options = {"prefetch_factor": self.prefetch, "timeout": self.worker_timeout} if count else {}
        return {"num_workers": count, "worker_init_fn": _leave_interrupts, **options}

    def input_level(self) -> float | None:
        """Return the level in dBFS of the model's input in training (see `gtcrn.data.level`): the items' median.

        None if all items that are measured are silent.
        """
        dataset = self.dataset("train")
        some = np.unique(np.linspace(0, len(dataset) - 1, _LEVELS).round().astype(int))
        items = (SkipUnreadable(dataset)[0, int(index)] for index in some)
        levels = [level_of([item["noisy"].numpy()[:, None]], self.sample_rate) for item in items]
        finite = [level for level in levels if level > -inf]
        return round(float(np.median(finite)), 1) if finite else None

    def title(self, split: str) -> str:
        """Return the name of a split. For a test set that is no real one, it states what is used instead."""
        notes = {
            "test": "",
            "validation": " (on the validation set: these data have no test set)",
            "all": " (on all pairs, those that train too)",
        }
        return split + notes[self.source.tests_on() if split == "test" else "test"]

    def describe(self) -> list[str]:
        """Return a line per split that is set up: `train: 11572 files, 9.41 h, 28 speakers, SNR 0.0 to 15.0 dB`."""
        return [f"{self.title(split)}: {dataset.describe()}" for split, dataset in self._datasets.items()]


def _leave_interrupts(worker: int) -> None:
    """Ignore Ctrl-C in a worker: the terminal sends it to all processes, but the training one still needs batches."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def vctk_demand(
    root: str | dict | None,
    train_sets: list[str],
    validation_speakers: list[str],
    validation_files: list[str] | None,
    test: str,
    suffix: str | None,
    **loading,
) -> SpeechData:
    """Build `data=vctk_demand`: see `VctkDemand`, and `SpeechData` for the other keys."""

    def corpus(folder: str | None) -> VctkDemand:
        return VctkDemand(folder, train_sets, validation_speakers, validation_files, test, suffix)

    return SpeechData(_pair_source(root, corpus), **loading)


def dns_pairs(
    root: str | dict | None,
    test_root: str | None,
    test: str,
    validation_share: float,
    held_out_by: str = "speaker",
    **loading,
) -> SpeechData:
    """Build `data=dns_pairs`: see `DnsPairs`, and `SpeechData` for the other keys."""

    def corpus(folder: str | None) -> DnsPairs:
        return DnsPairs(folder, test_root, test, validation_share, held_out_by)

    source = _pair_source(root, corpus)
    if test_root and test not in ("validation", "all"):  # there is one test set, however many corpora are trained on
        source = SeparateTestSource(source, PairSource(corpus(root)))
    return SpeechData(source, **loading)


def noisy(root: str | None, validation_share: float, held_out_by: str = "file", **loading) -> SpeechData:
    """Build `data=noisy`: see `NoisyRecordings`, and `SpeechData` for the other keys."""
    return SpeechData(PairSource(NoisyRecordings(root, validation_share, held_out_by)), **loading)


def _pair_source(root: str | dict | None, corpus: Callable[[str | None], object]) -> Source:
    """Return the source of one corpus of pairs, or of several with weights, `{name: {path: folder, weight: 0.3}}`."""
    if not isinstance(root, Mapping):
        return PairSource(corpus(root))
    for name, entry in root.items():
        if not isinstance(entry, Mapping) or entry.keys() != {"path", "weight"}:
            raise UserError(f"data.root.{name}={entry}: give path and weight")
    sources = {name: PairSource(corpus(entry["path"])) for name, entry in root.items()}
    return BlendSource(sources, {name: entry["weight"] for name, entry in root.items()})


def dns(
    speech: str | list | dict | None,
    noise: str | list | dict | None,
    rir: str | list | dict | None,
    speaker: str | None,
    recipe: Recipe,
    held_out: float,
    epoch_hours: float | None,
    fixed_items: int,
    fixed_seconds: float,
    held_out_by: str = "speaker",
    validation_speech: str | list | dict | None = None,
    validation_noise: str | list | dict | None = None,
    validation_rir: str | list | dict | None = None,
    test_speech: str | list | dict | None = None,
    test_noise: str | list | dict | None = None,
    test_rir: str | list | dict | None = None,
    test_root: str | None = None,
    test: str = "auto",
    denoiser: Denoise | None = None,
    **loading,
) -> SpeechData:
    """Build `data=dns` and, with a denoiser, `data=timbre`: see `MixSource`, and `SpeechData` for the other keys.

    validation_speech … test_rir: corpora for validation and test that replace a held-out share of speech, noise, rir.
    test_root, test: test sets (see `DnsPairs`) that replace mixtures of held-out speech.
    """
    if test in ("validation", "all"):
        raise UserError(f"data.test={test}: data=dns takes auto, no_reverb, with_reverb or blind")
    separate = {
        "validation": {"speech": validation_speech, "noise": validation_noise, "rir": validation_rir},
        "test": {"speech": test_speech, "noise": test_noise, "rir": test_rir},
    }
    fixed = dict(held_out=held_out, held_out_by=held_out_by, fixed_items=fixed_items, fixed_seconds=fixed_seconds)
    source: Source = MixSource(
        speech, noise, rir, recipe, speaker, epoch_hours=epoch_hours, denoise=denoiser, separate=separate, **fixed
    )
    if test_root:
        source = SeparateTestSource(source, PairSource(DnsPairs(None, test_root, test, held_out)))
    return SpeechData(source, **loading)


def finetune(
    speech: str | list | dict | None,
    noise: str | list | dict | None,
    rir: str | list | dict | None,
    replay_speech: str | list | dict | None,
    replay_noise: str | list | dict | None,
    replay_rir: str | list | dict | None,
    replay_root: str | None,
    replay_validation_speakers: list[str],
    replay_validation_files: list[str] | None,
    replay_suffix: str | None,
    replay_ratio: float,
    replay_hours: float | None,
    speaker: str | None,
    recipe: Recipe,
    held_out: float,
    epoch_hours: float | None,
    fixed_items: int,
    fixed_seconds: float,
    held_out_by: str = "speaker",
    validation_speech: str | list | dict | None = None,
    validation_noise: str | list | dict | None = None,
    validation_rir: str | list | dict | None = None,
    **loading,
) -> SpeechData:
    """Build `data=finetune`: new mixtures, and with them items of the corpus that the model was first trained on.

    speech, noise, rir: the new material; without new speech or rooms, replay_speech and replay_rir are used.
    replay_speech, replay_noise, replay_rir: the original material, to be mixed anew; or replay_root: the folder of
        a corpus of pairs (see `VctkDemand`), of which replay_validation_speakers, or else replay_validation_files,
        never train.
    validation_speech, validation_noise, validation_rir: new material for validation and test that replaces a share.
    replay_ratio: share of the original material in the items of an epoch. replay_hours: instead, its hours.
    """
    if not 0 < replay_ratio < 1:
        raise UserError(f"data.replay_ratio={replay_ratio}: must lie between 0 and 1")
    if bool(replay_root) == bool(replay_speech and replay_noise):
        raise UserError(
            "data=finetune replays what the model was trained on: give data.replay_root=FOLDER (pairs), or "
            "data.replay_speech=FOLDER and data.replay_noise=FOLDER"
        )
    fixed = dict(
        speaker=speaker,
        held_out=held_out,
        held_out_by=held_out_by,
        fixed_items=fixed_items,
        fixed_seconds=fixed_seconds,
    )
    if validation_speech and not speech:
        raise UserError("data.validation_speech goes with data.speech=FOLDER, which is not set")
    separate = {"validation": {"speech": validation_speech, "noise": validation_noise, "rir": validation_rir}}
    # new mixtures of replayed speech would hold out other speakers than a corpus of pairs does, so that has none
    own_speech = speech or (None if replay_root else replay_speech)
    own = MixSource(own_speech, noise, rir or replay_rir, recipe, epoch_hours=epoch_hours, separate=separate, **fixed)
    if replay_root:
        pairs = VctkDemand(
            replay_root,
            ["28spk"],
            replay_validation_speakers,
            replay_validation_files,
            suffix=replay_suffix,
            prefix="data.replay_",
        )
        replay: Source = PairSource(pairs)
    else:
        replay = MixSource(replay_speech, replay_noise, replay_rir, recipe, prefix="data.replay_", **fixed)
    if replay_hours:
        blend = BlendSource({"own": own, "replay": replay}, hours={"replay": replay_hours})
    else:
        weights = {"own": 1 - replay_ratio, "replay": replay_ratio}
        blend = BlendSource({"own": own, "replay": replay}, weights, lead="own")
    return SpeechData(blend, **loading)


def demo(
    train_files: int,
    validation_files: int,
    test_files: int,
    corpus_seed: int,
    cache_dir: str | None,
    **loading,
) -> SpeechData:
    """Build `data=demo`: see `Demo`, and `SpeechData` for the other keys."""
    sizes = {"train": train_files, "validation": validation_files, "test": test_files}
    for split, size in sizes.items():
        if size < 1:
            raise UserError(f"data.{split}_files={size}: must be a whole number of at least 1")
    corpus = Demo(sizes, corpus_seed, loading["sample_rate"], cache_dir)
    return SpeechData(PairSource(corpus), cache_dir=cache_dir, **loading)
