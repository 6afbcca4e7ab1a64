"""The pairs that the DNS Challenge's synthesiser writes, and the challenge's synthetic and blind test sets.

Reddy et al., "The INTERSPEECH 2020 Deep Noise Suppression Challenge", Interspeech 2020.
"""

import logging
import re
from collections import Counter
from collections.abc import Iterable
from math import nan
from pathlib import Path

import numpy as np

from gtcrn.data.pairs import FilePair
from gtcrn.data.shards import audio_files, subfolders
from gtcrn.data.speakers import known_speaker, split_of
from gtcrn.errors import UserError, counted
from gtcrn.files import expanded

log = logging.getLogger(__name__)

TESTS = ("auto", "no_reverb", "with_reverb", "blind", "validation", "all")
LAYOUT = "noisy and clean (and noise), whose files end in fileid_N"

_ENDING = re.compile(r"(?:clean_)?fileid_(\d+)$")
_MISNAMED = -1  # instead of the number, for a file whose name does not end in one


class DnsPairs:
    """A corpus that gives the pairs of each split, matched by the number N of `..._fileid_N` and `clean_fileid_N`.

    root: the folder with `noisy/` and `clean/`; only needed to train and validate, and for `test=validation|all`.
    test_root: the folder of the test sets: all folders in it, at any depth, with `noisy/` and `clean/`, such as
        `synthetic/no_reverb` (of 2020) and `track_1/synthetic` (of 2021); for `test=blind` any folder of recordings.
    test: `auto` = all sets in test_root, or the validation pairs without a test_root; `no_reverb` or `with_reverb` =
        the sets of that name; `blind` = recordings without a clean half, which only measures that need no reference
        can score; `validation`; `all` = every pair of root.
    validation_share: share of the readers (`reader_06709` in the names, or the speakers of other known corpora) that
        never train. A file may join clips of several readers: it is left out if they are in different splits. Names
        are cut off after 100 letters, so for such files no more than the first two readers are known. Files whose
        names state no speaker are for training.
    held_out_by: `speaker`, or `file`: the share is of the files then, whoever speaks in them.

    SNRs are read from the names (`..._snr12_tl-25_...`) and measured where these do not state them. Raises UserError
    if a setting is not one of its choices.
    """

    def __init__(
        self,
        root: str | None,
        test_root: str | None,
        test: str,
        validation_share: float,
        held_out_by: str = "speaker",
    ):
        if held_out_by not in ("speaker", "file"):
            raise UserError(f"data.held_out_by={held_out_by} is not one of speaker, file")
        if test not in TESTS:
            raise UserError(f"data.test={test} is not one of {', '.join(TESTS)}")
        if test in ("no_reverb", "with_reverb", "blind") and not test_root:
            raise UserError(f"data.test={test} needs data.test_root=FOLDER")
        if not 0 < validation_share < 1:
            raise UserError(f"data.validation_share={validation_share}: must lie between 0 and 1")
        self.root, self.test_root, self.test, self.validation_share = root, test_root, test, validation_share
        self.held_out_by = held_out_by

    def pairs(self, split: str) -> list[FilePair]:
        """Return the pairs of `train`, `validation` or `test`, not yet scanned. Raises UserError if folders lack."""
        if split == "test" and self.test_root and self.test not in ("validation", "all"):
            content = "recordings" if self.test == "blind" else LAYOUT
            return self._test_set(_folder(self.test_root, "data.test_root", content))
        root = _folder(self.root, "data.root")
        if not {"noisy", "clean"} <= set(subfolders(root)):
            raise UserError(f"data.root={root} should hold {LAYOUT}")
        pairs = _pairs(root)
        if split == "test" and self.test == "all":
            return pairs
        good = [pair for pair in pairs if not pair.problem]
        if not good:  # the scan will name their problems
            return pairs
        speakers = {pair.name: [pair.name] if self.held_out_by == "file" else _readers_of(pair.name) for pair in good}
        known = sorted({speaker for some in speakers.values() for speaker in some})
        unknown = sum(not some for some in speakers.values())
        groups = np.array([*known, ""] if unknown else known, object)
        splits = split_of(groups, {"validation": self.validation_share})
        if splits is None:
            files = counted(len(good), "file")
            if self.held_out_by == "file":
                raise UserError(f"data.root={root}: {files}, too few to train and validate; give more")
            people = counted(len(known), "reader or speaker", "readers or speakers")
            raise UserError(
                f"data.root={root}: the names of {files} tell {people}, too few to train and validate; hold out files "
                "instead, whoever speaks in them: data.held_out_by=file"
            )
        if split == "train":
            log.info("data.root=%s: %d readers or speakers in %d files", root, len(known), len(good) - unknown)
            if unknown:
                warning = "data.root=%s: %d files of unknown speakers are all used for training, none is held out"
                log.warning(warning, root, unknown)
        wanted = set(groups[splits == ("train" if split == "train" else "validation")])
        return [pair for pair in pairs if pair.problem or wanted.issuperset(speakers[pair.name] or [""])]

    def tests_on(self) -> str:
        if self.test_root and self.test not in ("validation", "all"):
            return "test"
        return "all" if self.test == "all" else "validation"

    def _test_set(self, root: Path) -> list[FilePair]:
        files = audio_files(root)
        if self.test == "blind":
            if not files:
                raise UserError(f"data.test_root={root} holds no audio files")
            return [_pair(Path(file), path, None) for file, path in files.items()]
        folders = [folder for folder in _sets(files) if self.test in ("auto", (root / folder).name)]
        if not folders:
            named = "" if self.test == "auto" else f" {self.test}"
            raise UserError(
                f"data.test_root={root} has no folder{named} with {LAYOUT}; recordings alone need data.test=blind"
            )
        return [pair for folder in folders for pair in _pairs(root / folder, folder)]


def _folder(path: str | None, key: str, content: str = LAYOUT) -> Path:
    if path is None:
        raise UserError(f"{key} is not set: give {key}=FOLDER, with {content}")
    if not expanded(path).is_dir():
        raise UserError(f"{key}={path} is not a folder; it should hold {content}")
    return expanded(path)


def _sets(files: Iterable[str]) -> list[Path]:
    """Return the folders that have files in their `noisy/` and in their `clean/`."""
    parents = {parent for file in files for parent in Path(file).parents}
    return sorted(
        parent.parent for parent in parents if parent.name == "noisy" and parent.with_name("clean") in parents
    )


def _pairs(root: Path, group: Path = Path()) -> list[FilePair]:
    """Return the pairs of a folder by number, with `group` before their names. A single half has a `problem`."""
    noisy, clean = audio_files(root / "noisy"), audio_files(root / "clean")
    if not noisy and not clean:
        raise UserError(f"{root / 'noisy'} and {root / 'clean'} hold no audio files")
    halves = clean_halves(noisy, clean)
    uses = Counter(halves.values())
    pairs = [_bad(root / "clean" / file, "its noisy half is missing") for file in clean if not uses[file]]
    for file, half in sorted(halves.items(), key=lambda item: _number(item[0])):
        if half is None:
            pairs.append(_bad(root / "noisy" / file, "its clean half is missing"))
        elif uses[half] > 1:
            pairs.append(_bad(root / "noisy" / file, f"has {root / 'clean' / half} in common with another noisy file"))
        else:
            pairs.append(_pair(group / Path(file).name, noisy[file], clean[half]))
    return pairs


def clean_halves(noisy: Iterable[str], clean: Iterable[str]) -> dict[str, str | None]:
    """Return {noisy file: the clean file of its number, or None} for names with suffixes that end in `fileid_N`."""
    by_number: dict[int, list[str]] = {}
    for file in clean:
        by_number.setdefault(_number(file), []).append(file)
    by_number.pop(_MISNAMED, None)
    return {file: _clean_half(file, by_number.get(_number(file), [])) for file in noisy}


def _pair(file: Path, noisy: Path, clean: Path | None) -> FilePair:
    name = str(file.with_suffix(""))
    return FilePair(name, noisy, clean, next(iter(_readers_of(name)), name), _snr_of(name))


def _number(file: str | Path) -> int:
    ending = _ENDING.search(Path(file).stem)
    return int(ending.group(1)) if ending else _MISNAMED


def _clean_half(file: str, candidates: list[str]) -> str | None:
    """Return that of the clean files with its number which shares most of its beginning.

    There are several where sets share a folder: `synthetic_singing_..._fileid_7` belongs to
    `synthetic_singing_clean_fileid_7`.
    """
    beginnings = {other: _ENDING.sub("", Path(other).stem) for other in candidates}
    fitting = [other for other in candidates if Path(file).stem.startswith(beginnings[other])]
    return max(fitting, key=lambda other: len(beginnings[other]), default=None)


def _bad(path: Path, problem: str) -> FilePair:
    if _number(path) == _MISNAMED:
        problem = "misnamed: no fileid_N at the end of its name"
    return FilePair(path.stem, path, None, "", problem=problem)


def _readers_of(name: str) -> list[str]:
    """Return the readers of a file, or else the speaker of a known corpus, if the name begins with that of its file."""
    if readers := re.findall(r"reader_\d+", name):
        return readers
    parts = name.split("_")
    beginnings = ("_".join(parts[:count]) for count in range(1, len(parts) + 1))
    return [known[0] for beginning in beginnings if (known := known_speaker(beginning))][:1]


def _snr_of(name: str) -> float:
    """Return the SNR in dB that a name states: 12 for `..._snr12_tl-25_...`, 17.74 for `..._SNR_17.74dB_...`, or nan.

    The last one counts, since the names of the recordings that were mixed come before.
    """
    stated = re.findall(r"_snr_?(-?\d+(?:\.\d+)?)", name, re.IGNORECASE)
    return float(stated[-1]) if stated else nan
