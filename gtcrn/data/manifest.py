"""The manifest of a corpus is a table of its files, with what a run must know of each without opening it."""

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa

from gtcrn.data import audio, shards
from gtcrn.data.cache import cache_folder, digest, stamp
from gtcrn.data.folders import NO_UTF8, is_utf8, listed_lines, search
from gtcrn.data.scan import BadFile, cached_scan
from gtcrn.data.speakers import SpeakerRule, speaker_rule
from gtcrn.data.tables import MappedTable, write_by_content
from gtcrn.errors import UserError, counted, printable
from gtcrn.files import expanded

log = logging.getLogger(__name__)

FILE = "manifest.arrow"
TABLES = (".arrow", ".feather", ".parquet")
MAKE = "gtcrn task=prepare prepare=manifest input=FOLDER"
SPOT_CHECKS = 100  # files of a ready-made manifest whose existence is checked

FACTS = pa.schema(
    [
        ("path", pa.string()),  # relative to the root in the schema's metadata, or to the table's own folder
        ("seconds", pa.float64()),
        ("frames", pa.int64()),
        ("rate", pa.int32()),
        ("channels", pa.int32()),
        ("peak", pa.float32()),
        ("rms", pa.float32()),
        ("problem", pa.string()),  # why the file can't be used, or ""
    ]
)


@dataclass(frozen=True)
class AudioFile:
    """One audio file. seconds, frames, rate (Hz), channels: as it is on disk. peak, rms: relative to full scale."""

    path: Path
    seconds: float
    frames: int
    rate: int
    channels: int
    speaker: str
    peak: float
    rms: float
    problem: str


class Manifest(MappedTable[AudioFile]):
    """The files of a corpus.

    speaker: the rule by which a path names its speaker (or, of noise, its recording), see `SpeakerRule`. None takes the
        manifest's own column or, without one, the rule that the names follow.

    Raises UserError if the table is not a manifest.
    """

    def __init__(self, file: Path, chosen: np.ndarray | None = None, speaker: str | None = None):
        super().__init__(file, chosen)
        self.speaker = speaker
        missing = set(FACTS.names) - set(self.table.column_names)
        if missing:
            raise UserError(f"{file}: no manifest, it has no column {', '.join(sorted(missing))}; make one with {MAKE}")
        root = (self.table.schema.metadata or {}).get(b"root", b"").decode(errors="replace")
        self.root = Path(root) if root else file.parent

    def from_row(self, values: dict) -> AudioFile:
        known = {name: values[name] for name in FACTS.names} | {"path": self.root / values["path"]}
        speaker = (values["speaker"] or "") if self._has_speakers else self.rule(values[self._name])[0]
        return AudioFile(**known, speaker=speaker)

    def speakers(self) -> np.ndarray:
        """Return the speaker of each file, "" where it is unknown, (len(self),)."""
        return np.array([speaker for speaker, _ in self.identify_speakers()], dtype=object)

    def identify_speakers(self) -> list[tuple[str, str]]:
        """Return (speaker, how it was found, in a word or two) of each file, as `SpeakerRule` does."""
        if self._has_speakers:
            return [(speaker, "manifest") if speaker else ("", "") for speaker in self.column("speaker")]
        return [self.rule(name) for name in self.names()]

    def names(self) -> np.ndarray:
        """Return the path of each file in the corpus (for a packed file, before it was packed), (len(self),)."""
        return self.column(self._name)

    @cached_property
    def rule(self) -> SpeakerRule:
        """Return the rule by which the paths name their speakers."""
        return speaker_rule(self.table[self._name].to_pylist(), self.speaker)

    @property
    def _has_speakers(self) -> bool:
        return self.speaker is None and "speaker" in self.table.column_names

    @property
    def _name(self) -> str:
        return "name" if "name" in self.table.column_names else "path"


def facts_of(path: Path) -> dict:
    """Return the columns of `FACTS`, but for the path, of one file; all of it is decoded."""
    facts = asdict(audio.examine(path))
    return facts | {"seconds": facts["frames"] / facts["rate"] if facts["rate"] else 0.0}


def open_manifest(
    path: str | Path, key: str, cache_dir: str | Path | None, speaker: str | None = None, anew: bool = False
) -> Manifest:
    """Return the manifest of a folder or of a list of files, or open one that is ready-made.

    path: a folder, searched for audio at any depth; a text file with a path per line, relative to its own folder; or
        a manifest (Arrow or Parquet), or a folder with a `manifest.arrow` or packed shards in it. Every file of a
        folder or list is decoded once, in parallel, and again only when it changes. A ready-made manifest is trusted
        after some of its files were found.
    key: the configuration's name for it, e.g. `data.noise`, for the errors.
    speaker: see `Manifest`.
    anew: search a folder even if it has a manifest.

    Raises UserError if there is no such path, nothing to be used in it, or something wrong with a manifest.
    """
    path = expanded(path)
    if not (path.is_file() or path.is_dir()):
        raise UserError(f"{key}={path}: no such file or folder")
    if not is_utf8(path.absolute()):
        raise UserError(f"{key}={path}: this path is not UTF-8, as tables need; rename it")
    names = (shards.INDEX,) if anew else (shards.INDEX, FILE)
    ready = next((path / name for name in names if (path / name).is_file()), None)
    if ready or path.suffix in TABLES:
        return _checked(Manifest(ready or path, speaker=speaker), key)
    if path.is_file():
        if path.suffix != ".txt":
            raise UserError(
                f"{key}={path}: expected a folder, a list of files (.txt) or a manifest ({', '.join(TABLES)})"
            )
        listed = [path.parent / os.path.expanduser(line) for line in listed_lines(path)]
        root, problems = Path(os.path.commonpath([path.parent, *listed])), {}
        files = [os.path.relpath(file, root) for file in listed]
    else:
        root = path.absolute()
        files, problems = search(root)
    if not files:
        raise UserError(f"{key}={path}: no audio files ({', '.join(audio.SUFFIXES)}) in it")
    problems |= {printable(file): NO_UTF8 for file in files if not is_utf8(file)}
    stamps = {file: str(stamp(root / file)) for file in files if is_utf8(file)} | problems
    cache = cache_folder(cache_dir, "manifests") / f"{digest(str(root))}.seen"

    def examine(file: str) -> dict:
        if file in problems:
            return dict(seconds=0, frames=0, rate=0, channels=0, peak=0, rms=0, problem=problems[file])
        return facts_of(root / file)

    schema = FACTS.with_metadata({"root": str(root)})
    scanned = cached_scan(cache, list(stamps), list(stamps.values()), examine, schema, "file")
    return Manifest(write_by_content(scanned, cache.parent), speaker=speaker)


def _checked(manifest: Manifest, key: str) -> Manifest:
    """Return a ready-made manifest after checking all its rows, and that some of its files exist.

    Raises UserError if something is wrong.
    """

    def refused(what: str) -> UserError:
        return UserError(f"{key}={manifest.file}: {what}; make it anew with {MAKE}")

    if not len(manifest):
        raise UserError(f"{key}={manifest.file}: the manifest has no rows")
    for field in FACTS:
        column = manifest.table[field.name]
        try:
            column.cast(field.type)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            raise refused(f"{field.name} is {column.type} where {field.type} is needed") from None
        if column.null_count:
            raise refused(f"{field.name} is missing in {counted(column.null_count, 'row')}")
    frames, rate = manifest.column("frames"), manifest.column("rate")
    good = np.asarray(manifest.column("problem") == "")
    agree = (frames > 0) & (rate > 0) & np.isclose(manifest.column("seconds") * rate, frames, rtol=0, atol=0.5)
    if len(wrong := np.flatnonzero(good & ~agree)):
        raise refused(f"{manifest.column('path')[wrong[0]]}: its seconds, frames and rate do not agree")
    for index in np.linspace(0, len(manifest) - 1, min(SPOT_CHECKS, len(manifest))).astype(int):
        file = audio.container(manifest[index].path)
        if not file.is_file():
            raise refused(f"{file}, one of its files, is missing")
    return manifest


@dataclass(frozen=True)
class WeightedCorpus:
    """A corpus with its name and its weight among the corpora from which files are drawn."""

    name: str
    files: Manifest
    weight: float


def open_corpora(
    paths: str | list | Mapping, key: str, cache_dir: str | Path | None, speaker: str | None = None
) -> list[WeightedCorpus]:
    """Open the corpora of one role, e.g. `data.speech`.

    paths: one path (see `open_manifest`), a list of paths, or `{name: path}` or
        `{name: {path: …, weight: 0.3, speaker: folder}}`. Without weights every file is drawn equally often.

    Raises UserError if one of them can't be opened, or has no weight where others have one.
    """
    if not isinstance(paths, Sequence | Mapping) or isinstance(paths, str):
        paths = [paths]
    if not isinstance(paths, Mapping):
        names = [Path(str(path)).name for path in paths]
        if len(set(names)) < len(names):  # /a/clean and /b/clean
            names = map(str, paths)
        paths = dict(zip(names, paths))
    corpora = []
    for name, entry in paths.items():
        entry = entry if isinstance(entry, Mapping) else {"path": entry}
        if unknown := entry.keys() - {"path", "weight", "speaker"} or "path" not in entry:
            wrong = "path is missing" if unknown is True else f"unknown {', '.join(sorted(unknown))}"
            raise UserError(f"{key}.{name}: {wrong}; it takes path, weight and speaker")
        if not isinstance(entry["path"], str | Path):
            raise UserError(f"{key}.{name}={entry['path']}: give a folder, a list of files or a manifest")
        own_key = f"{key}.{name}" if len(paths) > 1 else key
        files = open_manifest(entry["path"], own_key, cache_dir, entry.get("speaker", speaker))
        weight = entry.get("weight", len(files))
        if not isinstance(weight, float | int) or weight <= 0:
            raise UserError(f"{key}.{name}.weight={weight}: must be above 0")
        corpora.append(WeightedCorpus(name, files, weight))
    weighted = [name for name, entry in paths.items() if isinstance(entry, Mapping) and "weight" in entry]
    if weighted and len(weighted) < len(paths):
        raise UserError(
            f"{key}: {', '.join(weighted)} has a weight and the others have none; give all or none a weight"
        )
    return corpora


def usable(files: Manifest, sample_rate: int, least_seconds: float = 0.0) -> tuple[Manifest, list[BadFile]]:
    """Return the files that can be used at this rate (Hz), and the bad ones with what is wrong with them."""
    problem, rate, seconds = files.column("problem"), files.column("rate"), files.column("seconds")
    slow, brief = rate < sample_rate, seconds < least_seconds
    good = (problem == "") & ~slow & ~brief
    bad = []
    for index in np.flatnonzero(~good):
        reason = problem[index]
        if not reason and slow[index]:
            reason = audio.wrong_rate(rate[index], sample_rate)
        bad.append(
            BadFile(
                files[index].path,
                reason or f"too short: {seconds[index]:.2f} s where at least {least_seconds:g} s are needed",
            )
        )
    return files.select(good), bad
