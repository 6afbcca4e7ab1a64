"""Who speaks in a file, told by its name, and who of them never trains."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from os.path import commonprefix

import numpy as np

from gtcrn.data.seeding import shares_of
from gtcrn.errors import UserError

# Of known corpora: searched for in a path without suffix, the group is the speaker. LJ Speech has a single one.
_KNOWN = {
    "DNS Challenge": re.compile(r"(reader_\d+)"),
    "VCTK": re.compile(r"(?:^|/)([ps]\d{1,3})_\d{3}(?:_mic\d)?$"),
    "LibriSpeech": re.compile(r"(?:^|/)(\d+)-\d+-\d{4}$"),
    "LibriTTS": re.compile(r"(?:^|/)(\d+)_\d+_\d{6}_\d{6}$"),
    "AISHELL-3": re.compile(r"(?:^|/)(SSB\d{4})\d{4}$"),
    "AISHELL-1": re.compile(r"(?:^|/)BAC009(S\d{4})W\d{4}$"),
    "TIMIT": re.compile(r"(?:^|/)dr\d/([mf][a-z]{2}[a-z\d]\d)/s[aix]\d+(?:\.wav)?$", re.IGNORECASE),
    "VoxCeleb": re.compile(r"(?:^|/)(id\d{5})/[^/]+/\d{5}$"),
    "Lombard GRID": re.compile(r"(?:^|/)(s\d+)_[lp]_[a-z\d]{6}$"),
    "CREMA-D": re.compile(r"(?:^|/)(\d{4})_[A-Z]{3}_[A-Z]{3}_[A-Z]{2}$"),
    "LJ Speech": re.compile(r"(?:^|/)(LJ)\d{3}-\d{4}$"),
}
_COMMON_VOICE = re.compile(r"(?:^|/)common_voice_\w+_\d+$")  # which tells speakers in its tables alone
_FEWEST = 3  # folders or prefixes below which they are taken to tell something else


def known_speaker(path: str) -> tuple[str, str] | None:
    """Return (speaker, corpus) of a path, with or without suffix, if it is named as in a known corpus."""
    stem = re.sub(r"\.\w+$", "", path)
    for corpus, pattern in _KNOWN.items():
        if found := pattern.search(stem):
            return found[1], corpus
    return None


def prefix_of(path: str) -> str:
    """Return what stands before the first underscore of a file's name: anna of day1/anna_01.wav."""
    name = path.rpartition("/")[2]
    return (name.rpartition(".")[0] or name).split("_", 1)[0]


@dataclass(frozen=True)
class Naming:
    """How the paths of a corpus, relative to it, tell its speakers.

    rule: `known` (as in a known corpus); `prefix`, see `prefix_of`; `folder`, the name of the folder a file is in;
        `file`, each file by itself; or a regular expression with one group, searched for in the path.
    otherwise: of the rule `known`, what tells the speakers of other files: `prefix`, or `folder`, the one at `depth`
        on the way to the file; "" if nothing does.
    """

    rule: str
    otherwise: str = ""
    depth: int = 0

    def __call__(self, path: str) -> tuple[str, str]:
        """Return (speaker, what told it in a word or two); both are "" if nothing does.

        Raises UserError if a regular expression finds nothing.
        """
        if self.rule == "known":
            if known := known_speaker(path):
                return known
            if not self.otherwise or _COMMON_VOICE.search(re.sub(r"\.\w+$", "", path)):
                return "", ""
            return (prefix_of(path) if self.otherwise == "prefix" else path.split("/")[self.depth]), self.otherwise
        if self.rule == "prefix":
            return prefix_of(path), "prefix"
        if self.rule == "folder":
            return path.rpartition("/")[0].rpartition("/")[2], "folder"
        if self.rule == "file":
            return path, "file"
        match = re.search(self.rule, path)
        if not match or not match.groups():
            raise UserError(f"speaker={self.rule}: finds no (group) in {path}; it is searched for in the path")
        return match[1], self.rule


def naming_of(paths: Iterable[str], rule: str | None = None) -> Naming:
    """Return how these paths tell their speakers: by `rule` (see `Naming`), or as they show.

    Names of known corpora are known. The others' speakers are told by the first folder in which they differ if there
    are three or more of them, and no prefix is in two; else by prefixes if all lie in one folder and there are three
    or more, with two or more files each. Where both may be meant, nothing is taken to tell them.
    """
    if rule:
        try:
            re.compile(rule)
        except re.error as error:
            raise UserError(f"speaker={rule}: not a regular expression ({error})") from None
        return Naming(rule)
    others = [path for path in paths if not known_speaker(path)]
    folders = [path.split("/")[:-1] for path in others]
    depth = len(commonprefix(folders))
    firsts = ["/".join(folder[depth : depth + 1]) for folder in folders]
    prefixes = [prefix_of(path) if "_" in path.rpartition("/")[2] else "" for path in others]
    pairs = {(prefix, first) for prefix, first in zip(prefixes, firsts) if prefix}
    if _tell(firsts) and len(pairs) == len({prefix for prefix, _ in pairs}):
        return Naming("known", "folder", depth)
    if _tell(prefixes) and set(firsts) == {""}:
        return Naming("known", "prefix")
    return Naming("known")


def _tell(groups: Sequence[str]) -> bool:
    """Return whether groups, one for each file, may be speakers."""
    count = len(set(groups))
    return "" not in groups and count >= _FEWEST and len(groups) >= 2 * count


def split_of(speakers: np.ndarray, shares: Mapping[str, float]) -> np.ndarray | None:
    """Return the split of each file, given its speaker: one of `shares`, e.g. {"validation": 0.02}, or `train`.

    A speaker's split depends on its name only, so that it stays when files are added. Every split gets at least one;
    None is returned if there are not enough. Files whose speaker is not told ("") train.
    """
    known = speakers != ""
    names, owners = np.unique(speakers[known].astype(str), return_inverse=True)
    if len(names) < len(shares) + known.all():
        return None
    order = np.argsort(places := shares_of(names.tolist()))
    ends, reached = [], 0.0
    for number, share in enumerate(shares.values(), 1):
        reached += share
        end = max(np.sum(places < reached), (ends or [0])[-1] + 1)
        ends.append(min(end, len(names) - known.all() - len(shares) + number))
    splits = np.full(len(names), "train", object)
    splits[order] = np.array([*shares, "train"], object)[np.searchsorted(ends, np.arange(len(names)), "right")]
    chosen = np.full(len(speakers), "train", object)
    chosen[known] = splits[owners]
    return chosen
