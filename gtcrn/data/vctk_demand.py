"""The corpus VCTK-DEMAND, or VoiceBank-DEMAND (Valentini-Botinhao et al., SSW 2016), and any folders of pairs."""

import logging
from math import nan
from pathlib import Path

from gtcrn.data import audio
from gtcrn.data.pairs import FilePair, pair_folders
from gtcrn.data.shards import subfolders
from gtcrn.errors import UserError
from gtcrn.files import expanded

log = logging.getLogger(__name__)

LAYOUTS = (
    "either noisy_testset_wav, clean_testset_wav, noisy_trainset_28spk_wav, clean_trainset_28spk_wav "
    "(as downloaded; an ending such as _16k is fine) or simply noisy and clean with the same file names"
)


class VctkDemand:
    """A corpus that gives the pairs of each split: `pairs("train")`, `pairs("validation")`, `pairs("test")`.

    root: the folder with one of two layouts.
        official: `{noisy,clean}_trainset_{28,56}spk_wav*` and `{noisy,clean}_testset_wav*`, at any rate; SNRs
            are taken from `log_trainset_28spk.txt` ... `log_testset.txt`, in root or root/logfiles, where
            present.
        simple: `noisy/` and `clean/`, which hold all pairs.
    train_sets: which of the official training sets, 28spk and/or 56spk.
    suffix: the text after `_wav` in the official folder names; None takes the one that is there, if only one is.
    validation_speakers: the speakers (p226 of p226_001.wav) of the training sets that are used for validation alone.
    validation_files: instead of speakers, the names of single files (without suffix), for a corpus with too
        few speakers. Training and validation then share speakers.
    test: `auto` = the official test set; in a simple layout, which has none, the validation pairs, or every
        pair if none of the validation speakers is there; `validation` = the validation pairs; `all` = every
        training or simple pair, to score files without training on them.
    prefix: of the configuration's keys, for the errors.

    Raises UserError if the folder is missing or a setting is not one of its choices.
    """

    def __init__(
        self,
        root: str | Path | None,
        train_sets: list[str],
        validation_speakers: list[str],
        validation_files: list[str] | None = None,
        test: str = "auto",
        suffix: str | None = None,
        prefix: str = "data.",
    ):
        self.prefix = prefix
        if root is None:
            raise UserError(
                f"{prefix}root is not set: give the folder of the corpus, {prefix}root=FOLDER, with {LAYOUTS}"
            )
        self.root = expanded(root)
        if not self.root.is_dir():
            raise UserError(f"{prefix}root={root} is not a folder; it should hold {LAYOUTS}")
        if test not in ("auto", "validation", "all"):
            raise UserError(f"{prefix}test={test} is not one of auto, validation, all")
        for name in train_sets:
            if name not in ("28spk", "56spk"):
                raise UserError(f"{prefix}train_sets names {name}; the corpus has 28spk and 56spk")
        self.root_setting = f"{prefix}root={self.root}"
        self.train_sets = list(train_sets)
        self.validation_speakers = list(validation_speakers)
        self.validation_files = list(validation_files or [])
        self.test, self.suffix = test, suffix
        self.is_simple = {"noisy", "clean"} <= set(subfolders(self.root))

    def pairs(self, split: str) -> list[FilePair]:
        """Return the pairs of `train`, `validation` or `test`, not yet scanned. Raises UserError if files lack."""
        if split == "test" and self.test == "auto" and not self.is_simple:
            return self._official("testset")
        pairs = self._training_pairs()
        if split == "test" and self.test == "all":
            return pairs
        held_out = self._held_out(pairs)
        if not held_out and split == "test" and self.test == "auto":
            return pairs
        if not held_out and self._wanted:
            raise UserError(self._absence(pairs, sorted(self._wanted)))
        chosen = [pair for pair in pairs if (pair.name in held_out) == (split != "train")]
        if not chosen and split == "train":
            raise UserError(
                f"{self.root_setting}: the validation set takes all {len(pairs)} pairs and leaves none to train on; "
                f"name fewer in {self.prefix}validation_speakers=[...] or {self.prefix}validation_files=[...]"
            )
        return chosen

    def tests_on(self) -> str:
        if self.test == "auto" and not self.is_simple:
            return "test"
        if self.test == "all" or self.test == "auto" and not any(self._validates(p) for p in self._training_pairs()):
            return "all"
        return "validation"

    def _held_out(self, pairs: list[FilePair]) -> set[str]:
        """Return the names of the validation pairs. Raises UserError if one of `validation_files` is missing."""
        present = {self._key(pair) for pair in pairs}
        absent = self._wanted - present
        if absent and self.validation_files:
            raise UserError(self._absence(pairs, sorted(absent)))
        if absent and absent != self._wanted:
            log.warning(self._absence(pairs, sorted(absent)))
        return {pair.name for pair in pairs if self._validates(pair)}

    @property
    def _wanted(self) -> set[str]:
        return set(self.validation_files or self.validation_speakers)

    def _validates(self, pair: FilePair) -> bool:
        return self._key(pair) in self._wanted

    def _key(self, pair: FilePair) -> str:
        return pair.name if self.validation_files else pair.speaker

    def _absence(self, pairs: list[FilePair], absent: list[str]) -> str:
        key = "validation_files" if self.validation_files else "validation_speakers"
        present = sorted({self._key(pair) for pair in pairs})
        listed = ", ".join(present[:8]) + (", ..." if len(present) > 8 else "")
        return (
            f"{self.prefix}{key} names {', '.join(absent)}, not in {self.root_setting} (there: {listed}); "
            f"set {self.prefix}validation_speakers=[...] or, with too few speakers, {self.prefix}validation_files=[...]"
        )

    def _training_pairs(self) -> list[FilePair]:
        if self.is_simple:
            return self._pair(self.root / "noisy", self.root / "clean", {})
        return [pair for name in self.train_sets for pair in self._official(f"trainset_{name}")]

    def _official(self, name: str) -> list[FilePair]:
        return self._pair(self._folder(f"noisy_{name}_wav"), self._folder(f"clean_{name}_wav"), self._logged(name))

    def _pair(self, noisy: Path, clean: Path, facts: dict[str, dict]) -> list[FilePair]:
        pairs = pair_folders(noisy, clean, facts)
        if not pairs:
            raise UserError(f"{noisy} and {clean} hold no audio files ({', '.join(audio.SUFFIXES)})")
        return pairs

    def _folder(self, stem: str) -> Path:
        found = [self.root / name for name in subfolders(self.root) if name.startswith(stem)]
        if self.suffix is not None:
            found = [path for path in found if path.name == stem + self.suffix]
        if not found:
            raise UserError(f"{self.root_setting} has no folder {stem}{self.suffix or ''}; it should hold {LAYOUTS}")
        if len(found) > 1:
            names = " and ".join(path.name for path in found)
            raise UserError(
                f"{self.root_setting} has {names}: choose one by {self.prefix}suffix={found[-1].name[len(stem) :]}"
            )
        return found[0]

    def _logged(self, name: str) -> dict[str, dict]:
        """Read the corpus's own log, with lines such as `p232_001 bus 17.5`, and return noise and SNR of every file."""
        for folder in (self.root, self.root / "logfiles"):
            if (log := folder / f"log_{name}.txt").is_file():
                lines = (line.split() for line in log.read_text().splitlines())
                entries = (fields for fields in lines if len(fields) >= 3)
                return {file: {"noise": noise, "snr": _number(snr)} for file, noise, *_, snr in entries}
        return {}


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:  # a heading: that file's SNR is measured like any unknown one
        return nan
