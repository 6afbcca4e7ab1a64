"""VCTK-DEMAND, or VoiceBank-DEMAND (Valentini-Botinhao et al., SSW 2016), and any folders of pairs."""

from math import nan
from pathlib import Path

from gtcrn.data import audio
from gtcrn.data.pairs import Pair, pair_folders
from gtcrn.errors import UserError

LAYOUTS = (
    "either noisy_testset_wav, clean_testset_wav, noisy_trainset_28spk_wav, clean_trainset_28spk_wav "
    "(as downloaded; an ending such as _16k is fine) or simply noisy and clean with the same file names"
)


class VctkDemand:
    """Gives the pairs of a split: `pairs("train")`, `pairs("validation")`, `pairs("test")`.

    root: the folder with one of two layouts.
        official: `{noisy,clean}_trainset_{28,56}spk_wav*` and `{noisy,clean}_testset_wav*`, at any rate; SNRs
            are taken from `log_trainset_28spk.txt` ... `log_testset.txt`, in root or root/logfiles, where
            present.
        simple: `noisy/` and `clean/`, which hold all pairs.
    train_sets: which of the official training sets, 28spk and/or 56spk.
    suffix: what follows `_wav` in the official folder names; None takes whatever is there, if only one is.
    validation_speakers: these speakers (p226 of p226_001.wav) of the training sets validate and never train.
    validation_files: instead of speakers, the names of single files (without suffix): for a corpus with too
        few speakers. Not disjoint by speaker, then.
    test: `official` = the official test set; `validation` = the validation pairs; `all` = every pair of
        a simple layout, to score files without training on them. That layout has no official test set.
    """

    def __init__(
        self,
        root: str | Path | None,
        train_sets: list[str],
        validation_speakers: list[str],
        validation_files: list[str] | None = None,
        test: str = "official",
        suffix: str | None = None,
    ):
        if root is None:
            raise UserError(f"data.root is not set: give the folder of the corpus, data.root=FOLDER, with {LAYOUTS}")
        self.root = Path(root).expanduser()
        if not self.root.is_dir():
            raise UserError(f"data.root={root} is not a folder; it should hold {LAYOUTS}")
        if test not in ("official", "validation", "all"):
            raise UserError(f"data.test={test} is not one of official, validation, all")
        for name in train_sets:
            if name not in ("28spk", "56spk"):
                raise UserError(f"data.train_sets names {name}; the corpus has 28spk and 56spk")
        self.train_sets = list(train_sets)
        self.validation_speakers = list(validation_speakers)
        self.validation_files = list(validation_files or [])
        self.test, self.suffix = test, suffix
        self.is_simple = (self.root / "noisy").is_dir() and (self.root / "clean").is_dir()

    def pairs(self, split: str) -> list[Pair]:
        """The pairs of `train`, `validation` or `test`, not yet scanned. Raises UserError if files lack."""
        if split == "test" and self.test == "official":
            if self.is_simple:
                raise UserError(
                    f"data.root={self.root} has no official test set: say data.test=validation, "
                    "or data.test=all to score every pair"
                )
            return self._official("testset")
        pairs = self._training_pairs()
        if split == "test" and self.test == "all":
            return pairs
        held_out = self._held_out(pairs)
        return [pair for pair in pairs if (pair.name in held_out) == (split != "train")]

    def _held_out(self, pairs: list[Pair]) -> set[str]:
        """Names of the validation pairs; every speaker or file asked for must be there."""
        if self.validation_files:
            key, wanted, names_of = "validation_files", self.validation_files, lambda pair: pair.name
        else:
            key, wanted, names_of = "validation_speakers", self.validation_speakers, lambda pair: pair.speaker
        present = sorted({names_of(pair) for pair in pairs})
        if absent := sorted(set(wanted) - set(present)):
            listed = ", ".join(present[:8]) + (", ..." if len(present) > 8 else "")
            raise UserError(
                f"data.{key} names {', '.join(absent)}, not in data.root={self.root} (there: {listed}); "
                "set data.validation_speakers=[...] or, with too few speakers, data.validation_files=[...]"
            )
        return {pair.name for pair in pairs if names_of(pair) in wanted}

    def _training_pairs(self) -> list[Pair]:
        if self.is_simple:
            return self._pair(self.root / "noisy", self.root / "clean", snr={})
        return [pair for name in self.train_sets for pair in self._official(f"trainset_{name}")]

    def _official(self, name: str) -> list[Pair]:
        return self._pair(self._folder(f"noisy_{name}_wav"), self._folder(f"clean_{name}_wav"), self._logged_snr(name))

    def _pair(self, noisy: Path, clean: Path, snr: dict[str, float]) -> list[Pair]:
        pairs = pair_folders(noisy, clean, snr)
        if not pairs:
            raise UserError(f"{noisy} and {clean} hold no audio files ({', '.join(audio.SUFFIXES)})")
        return pairs

    def _folder(self, stem: str) -> Path:
        found = sorted(path for path in self.root.glob(stem + "*") if path.is_dir())
        if self.suffix is not None:
            found = [path for path in found if path.name == stem + self.suffix]
        if not found:
            raise UserError(f"data.root={self.root} has no folder {stem}{self.suffix or ''}; it should hold {LAYOUTS}")
        if len(found) > 1:
            names = " and ".join(path.name for path in found)
            raise UserError(
                f"data.root={self.root} has {names}: choose one by data.suffix={found[-1].name[len(stem) :]}"
            )
        return found[0]

    def _logged_snr(self, name: str) -> dict[str, float]:
        """Reads the corpus's own log, lines of `p232_001 bus 17.5`: file, noise, SNR in dB."""
        for folder in (self.root, self.root / "logfiles"):
            if (log := folder / f"log_{name}.txt").is_file():
                lines = (line.split() for line in log.read_text().splitlines())
                return {fields[0]: _number(fields[-1]) for fields in lines if len(fields) >= 3}
        return {}


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:  # a heading: that file's SNR is measured like any unknown one
        return nan
