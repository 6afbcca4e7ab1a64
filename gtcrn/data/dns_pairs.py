"""Pairs as the DNS Challenge's synthesiser writes them, its synthetic test sets and its blind test set.

Reddy et al., "The INTERSPEECH 2020 Deep Noise Suppression Challenge", Interspeech 2020.
"""

import re
from math import nan
from pathlib import Path

from gtcrn.data.pairs import Pair
from gtcrn.data.seeding import share_of
from gtcrn.data.shards import audio_files, subfolders
from gtcrn.errors import UserError

TESTS = ("auto", "no_reverb", "with_reverb", "blind", "validation", "all")
_MISNAMED = "misnamed: no fileid_N at the end of its name"
LAYOUT = "noisy and clean (and noise), whose files end in fileid_N"


class DnsPairs:
    """Gives the pairs of a split, matched by the number N in `..._fileid_N.wav`.

    root: the folder with `noisy/` and `clean/`; only needed to train and validate, and for `test=validation|all`.
    test_root: the folder of the test sets: `synthetic/no_reverb/{noisy,clean}` and `synthetic/with_reverb/...`
        at any depth, or `noisy/` and `clean/` themselves; for `test=blind` any folder of recordings.
    test: `auto` = all synthetic sets in test_root, or the validation pairs without a test_root; `no_reverb` or
        `with_reverb` = one of them; `blind` = recordings without a clean half, which only measures that need no
        reference can score; `validation`; `all` = every pair of root.
    validation_share: of the readers (`reader_06709` in the names; elsewhere of the files), never trained on.
    SNRs are read from the names (`..._snr12_tl-25_...`) and measured where they are not told.
    """

    def __init__(self, root: str | None, test_root: str | None, test: str, validation_share: float):
        if test not in TESTS:
            raise UserError(f"data.test={test} is not one of {', '.join(TESTS)}")
        if test in ("no_reverb", "with_reverb", "blind") and not test_root:
            raise UserError(f"data.test={test} needs data.test_root=FOLDER")
        if not 0 < validation_share < 1:
            raise UserError(f"data.validation_share={validation_share}: must lie between 0 and 1")
        self.root, self.test_root, self.test, self.validation_share = root, test_root, test, validation_share

    def pairs(self, split: str) -> list[Pair]:
        """The pairs of `train`, `validation` or `test`, not yet scanned. Raises UserError if folders lack."""
        if split == "test" and self.test == "blind":
            found = audio_files(_folder(self.test_root, "data.test_root")).items()
            return [Pair(str(Path(name).with_suffix("")), path, None, _speaker_of(name)) for name, path in found]
        if split == "test" and self.test_root and self.test not in ("validation", "all"):
            return self._synthetic(_folder(self.test_root, "data.test_root"))
        root = _folder(self.root, "data.root")
        if not {"noisy", "clean"} <= set(subfolders(root)):
            raise UserError(f"data.root={root} should hold {LAYOUT}")
        pairs = _pairs(root)
        if split == "test" and self.test == "all":
            return pairs
        held_out = {pair.speaker for pair in pairs if share_of(pair.speaker) < self.validation_share}
        if not held_out:
            held_out = {min((pair.speaker for pair in pairs), key=share_of)}
        chosen = [pair for pair in pairs if (pair.speaker in held_out) == (split != "train")]
        if not chosen:
            raise UserError(
                f"data.root={root}: {len(pairs)} pairs of one reader are too few to train and validate; for such a "
                "folder, data=vctk_demand data.validation_files=[...] names single files"
            )
        return chosen

    def _synthetic(self, root: Path) -> list[Pair]:
        wanted = ("no_reverb", "with_reverb") if self.test == "auto" else (self.test,)
        if self.test == "auto" and {"noisy", "clean"} <= set(subfolders(root)):
            return _pairs(root)
        folders = [path for name in wanted for path in sorted(root.rglob(name)) if path.is_dir()]
        if root.name in wanted:
            folders = [root]
        if not folders:
            raise UserError(f"data.test_root={root} has no folder {' or '.join(wanted)} with {LAYOUT}")
        return [pair for folder in folders for pair in _pairs(folder, f"{folder.name}/")]


def _folder(place: str | None, key: str) -> Path:
    if place is None:
        raise UserError(f"{key} is not set: give {key}=FOLDER, with {LAYOUT}")
    if not Path(place).expanduser().is_dir():
        raise UserError(f"{key}={place} is not a folder; it should hold {LAYOUT}")
    return Path(place).expanduser()


def _pairs(root: Path, prefix: str = "") -> list[Pair]:
    noisy, misnamed = _by_number(root / "noisy")
    clean, others = _by_number(root / "clean")
    pairs = []
    for number in sorted(noisy.keys() | clean.keys()):
        name, path = noisy.get(number) or (f"fileid_{number}", root / "noisy" / f"fileid_{number}.wav")
        _, other = clean.get(number) or ("", root / "clean" / f"clean_fileid_{number}.wav")
        snr = re.search(r"snr(-?\d+)", name)
        pairs.append(Pair(prefix + name, path, other, _speaker_of(name), float(snr.group(1)) if snr else nan))
    pairs += [Pair(prefix + name, path, None, "", problem=_MISNAMED) for name, path in misnamed + others]
    if not pairs:
        raise UserError(f"{root / 'noisy'} and {root / 'clean'} hold no audio files")
    return pairs


def _by_number(folder: Path) -> tuple[dict[int, tuple[str, Path]], list[tuple[str, Path]]]:
    """{N: (name without suffix, where to read it)}, and the files whose name does not end in fileid_N."""
    numbered, misnamed = {}, []
    for relative, path in audio_files(folder).items():
        name = Path(relative).stem
        number = re.search(r"fileid_(\d+)$", name)
        if number:
            numbered[int(number.group(1))] = name, path
        else:
            misnamed.append((name, path))
    return numbered, misnamed


def _speaker_of(name: str) -> str:
    reader = re.search(r"reader_\d+", name)
    return reader.group() if reader else name
