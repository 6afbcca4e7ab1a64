"""The speakers of a corpus, found by the names of its files, and their split into training and held-out ones."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from os.path import commonprefix

import numpy as np

from gtcrn.data.seeding import shares_of
from gtcrn.errors import UserError

# Names of files in known corpora: the group of the pattern, searched in a path without suffix, is the speaker. LJ
# Speech has a single one.
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
_COMMON_VOICE = re.compile(r"(?:^|/)common_voice_\w+_\d+$")  # its speakers are in its tables, not in its names
_FEWEST = 3  # folders or prefixes; fewer of them are more likely something else than speakers


def known_speaker(path: str) -> tuple[str, str] | None:
    """Return (speaker, corpus) of a path, with or without suffix, if it is named as in a known corpus."""
    stem = re.sub(r"\.\w+$", "", path)
    for corpus, pattern in _KNOWN.items():
        if found := pattern.search(stem):
            return found[1], corpus
    return None


def prefix_of(path: str) -> str:
    """Return the text before the first underscore of a file's name, e.g. anna for day1/anna_01.wav."""
    name = path.rpartition("/")[2]
    return (name.rpartition(".")[0] or name).split("_", 1)[0]


@dataclass(frozen=True)
class SpeakerRule:
    """The rule by which the paths of a corpus, relative to its folder, name the speakers.

    rule: `known` (as in a known corpus); `prefix`, see `prefix_of`; `folder`, the name of the folder a file is in;
        `file`, each file by itself; or a regular expression with one group, searched for in the path.
    otherwise: for the rule `known`, the rule of files that are not named so: `prefix`, or `folder`, the one at `depth`
        on the way to the file; "" if their speakers are unknown.
    """

    rule: str
    otherwise: str = ""
    depth: int = 0

    def __call__(self, path: str) -> tuple[str, str]:
        """Return (speaker, how it was found, in a word or two); both are "" for an unknown speaker.

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


def speaker_rule(paths: Iterable[str], rule: str | None = None) -> SpeakerRule:
    """Return the rule by which these paths name their speakers: `rule` (see `SpeakerRule`), or one found from them.

    The naming of known corpora is known. For other files, the first folder in which their paths differ is the speaker
    if there are three or more such folders, and no prefix is in two of them; else the prefix if all files lie in one
    folder and there are three or more prefixes, with two or more files each. Where both may be meant, the speakers
    are unknown.

    Raises UserError if `rule` is not a regular expression.
    """
    if rule:
        try:
            re.compile(rule)
        except re.error as error:
            raise UserError(f"speaker={rule}: not a regular expression ({error})") from None
        return SpeakerRule(rule)
    others = [path for path in paths if not known_speaker(path)]
    folders = [path.split("/")[:-1] for path in others]
    depth = len(commonprefix(folders))
    firsts = ["/".join(folder[depth : depth + 1]) for folder in folders]
    prefixes = [prefix_of(path) if "_" in path.rpartition("/")[2] else "" for path in others]
    pairs = {(prefix, first) for prefix, first in zip(prefixes, firsts) if prefix}
    if _may_be_speakers(firsts) and len(pairs) == len({prefix for prefix, _ in pairs}):
        return SpeakerRule("known", "folder", depth)
    if _may_be_speakers(prefixes) and set(firsts) == {""}:
        return SpeakerRule("known", "prefix")
    return SpeakerRule("known")


def _may_be_speakers(groups: Sequence[str]) -> bool:
    """Return whether groups, one for each file, may be speakers."""
    count = len(set(groups))
    return "" not in groups and count >= _FEWEST and len(groups) >= 2 * count


def split_of(speakers: np.ndarray, shares: Mapping[str, float]) -> np.ndarray | None:
    """Return the split of each file, given its speaker: one of `shares`, e.g. {"validation": 0.02}, or `train`.

    A speaker's split depends on its name only, so that it stays when files are added. Every split gets at least one
    speaker; if there are not enough, the result is None. Files of unknown speakers ("") are for training.
    """
    known = speakers != ""
    names, owners = np.unique(speakers[known].astype(str), return_inverse=True)
    if len(names) < len(shares) + known.all():
        return None
    order = np.argsort(positions := shares_of(names.tolist()))
    ends, reached = [], 0.0
    for number, share in enumerate(shares.values(), 1):
        reached += share
        end = max(np.sum(positions < reached), (ends or [0])[-1] + 1)
        ends.append(min(end, len(names) - known.all() - len(shares) + number))
    splits = np.full(len(names), "train", object)
    splits[order] = np.array([*shares, "train"], object)[np.searchsorted(ends, np.arange(len(names)), "right")]
    chosen = np.full(len(speakers), "train", object)
    chosen[known] = splits[owners]
    return chosen
