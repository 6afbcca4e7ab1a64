"""What is known of the files of a corpus without opening them: a table with a row per file."""

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
from gtcrn.data.rows import Rows, kept
from gtcrn.data.scan import BadFile, remembered
from gtcrn.data.speakers import Naming, naming_of
from gtcrn.errors import UserError, printable
from gtcrn.files import expanded

log = logging.getLogger(__name__)

FILE = "manifest.arrow"
TABLES = (".arrow", ".feather", ".parquet")
MAKE = "python run.py task=prepare prepare=manifest input=FOLDER"
SPOT_CHECKS = 100  # files of a ready-made manifest that are looked for

FACTS = pa.schema(
    [
        ("path", pa.string()),  # relative to the root in the schema's metadata, or to the table's own folder
        ("seconds", pa.float64()),
        ("frames", pa.int64()),
        ("rate", pa.int32()),
        ("channels", pa.int32()),
        ("peak", pa.float32()),
        ("rms", pa.float32()),
        ("problem", pa.string()),  # why it is of no use, or ""
    ]
)


@dataclass(frozen=True)
class AudioFile:
    """One file. seconds, frames, rate (Hz), channels: as it is on disk. peak, rms: of full scale."""

    path: Path
    seconds: float
    frames: int
    rate: int
    channels: int
    speaker: str
    peak: float
    rms: float
    problem: str


class Manifest(Rows[AudioFile]):
    """The files of a corpus.

    speaker: what tells the speaker (or, of noise, the recording), see `Naming`. None takes the manifest's own column,
        or without one what the names show.
    """

    def __init__(self, file: Path, chosen: np.ndarray | None = None, speaker: str | None = None):
        super().__init__(file, chosen)
        self.speaker = speaker
        missing = set(FACTS.names) - set(self.table.column_names)
        if missing:
            raise UserError(f"{file}: no manifest, it has no column {', '.join(sorted(missing))}; make one with {MAKE}")
        root = (self.table.schema.metadata or {}).get(b"root", b"").decode(errors="replace")
        self.root = Path(root) if root else file.parent

    def make(self, values: dict) -> AudioFile:
        known = {name: values[name] for name in FACTS.names} | {"path": self.root / values["path"]}
        speaker = (values["speaker"] or "") if self._has_speakers else self.naming(values[self._name])[0]
        return AudioFile(**known, speaker=speaker)

    def speakers(self) -> np.ndarray:
        """Return the speaker of each file, "" where nothing tells it, (len(self),)."""
        return np.array([speaker for speaker, _ in self.tell_speakers()], dtype=object)

    def tell_speakers(self) -> list[tuple[str, str]]:
        """Return (speaker, what told it in a word or two) of each file, as `Naming` does."""
        if self._has_speakers:
            return [(speaker, "manifest") if speaker else ("", "") for speaker in self.column("speaker")]
        return [self.naming(name) for name in self.names()]

    def names(self) -> np.ndarray:
        """Return the path of each file within the corpus, of packed files the one they had before, (len(self),)."""
        return self.column(self._name)

    @cached_property
    def naming(self) -> Naming:
        return naming_of(self.table[self._name].to_pylist(), self.speaker)

    @property
    def _has_speakers(self) -> bool:
        return self.speaker is None and "speaker" in self.table.column_names

    @property
    def _name(self) -> str:
        return "name" if "name" in self.table.column_names else "path"


def facts_of(path: Path) -> dict:
    """The columns of `FACTS`, but for the path."""
    facts = asdict(audio.examine(path))
    return facts | {"seconds": facts["frames"] / facts["rate"] if facts["rate"] else 0.0}


def open_manifest(
    place: str | Path, key: str, cache_dir: str | Path | None, speaker: str | None = None, anew: bool = False
) -> Manifest:
    """The manifest of a folder, of a list of files, or as it is.

    place: a folder, searched for audio at any depth; a text file with a path per line, relative to itself; or
        a manifest (Arrow or Parquet), or a folder with a `manifest.arrow` or packed shards in it. Of folders
        and lists every file is decoded once, in parallel, and again only when it changes. A ready-made
        manifest is taken at its word after a look at some of its files.
    key: the configuration's name for it, e.g. `data.noise`, for the errors.
    anew: search a folder even if it has a manifest.
    """
    place = expanded(place)
    if not (place.is_file() or place.is_dir()):
        raise UserError(f"{key}={place}: no such file or folder")
    if not is_utf8(place.absolute()):
        raise UserError(f"{key}={place}: this path is not UTF-8, as tables need; rename it")
    names = (shards.INDEX,) if anew else (shards.INDEX, FILE)
    ready = next((place / name for name in names if (place / name).is_file()), None)
    if ready or place.suffix in TABLES:
        return _ready_made(Manifest(ready or place, speaker=speaker), key)
    if place.is_file():
        if place.suffix != ".txt":
            raise UserError(
                f"{key}={place}: expected a folder, a list of files (.txt) or a manifest ({', '.join(TABLES)})"
            )
        found = [place.parent / os.path.expanduser(line) for line in listed_lines(place)]
        root, problems = Path(os.path.commonpath([place.parent, *found])), {}
        files = [os.path.relpath(path, root) for path in found]
    else:
        root = place.absolute()
        files, problems = search(root)
    if not files:
        raise UserError(f"{key}={place}: no audio files ({', '.join(audio.SUFFIXES)}) in it")
    problems |= {printable(file): NO_UTF8 for file in files if not is_utf8(file)}
    stamps = {file: str(stamp(root / file)) for file in files if is_utf8(file)} | problems
    memory = cache_folder(cache_dir, "manifests") / f"{digest(str(root))}.seen"

    def look(path: str) -> dict:
        if path in problems:
            return dict(seconds=0, frames=0, rate=0, channels=0, peak=0, rms=0, problem=problems[path])
        return facts_of(root / path)

    schema = FACTS.with_metadata({"root": str(root)})
    seen = remembered(memory, list(stamps), list(stamps.values()), look, schema, "file")
    return Manifest(kept(seen, memory.parent), speaker=speaker)


def _ready_made(manifest: Manifest, key: str) -> Manifest:
    """Check all rows of a manifest that somebody made, and whether some of its files are there.

    Raises UserError in one line.
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
            raise refused(f"{field.name} is missing in {column.null_count} row(s)")
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
class Corpus:
    """A named part of what is drawn from, and how often."""

    name: str
    files: Manifest
    weight: float


def open_corpora(
    places: str | list | Mapping, key: str, cache_dir: str | Path | None, speaker: str | None = None
) -> list[Corpus]:
    """The corpora of one role, e.g. `data.speech`.

    places: one place (see `open_manifest`), a list of places, or `{name: place}` or
        `{name: {path: place, weight: 0.3, speaker: folder}}`. Without weights every file is drawn equally often.
    """
    if not isinstance(places, Sequence | Mapping) or isinstance(places, str):
        places = [places]
    if not isinstance(places, Mapping):
        names = [Path(str(place)).name for place in places]
        if len(set(names)) < len(names):  # /a/clean and /b/clean
            names = map(str, places)
        places = dict(zip(names, places))
    corpora = []
    for name, entry in places.items():
        entry = entry if isinstance(entry, Mapping) else {"path": entry}
        if unknown := entry.keys() - {"path", "weight", "speaker"} or "path" not in entry:
            wrong = "path is missing" if unknown is True else f"unknown {', '.join(sorted(unknown))}"
            raise UserError(f"{key}.{name}: {wrong}; it takes path, weight and speaker")
        if not isinstance(entry["path"], str | Path):
            raise UserError(f"{key}.{name}={entry['path']}: give a folder, a list of files or a manifest")
        own_key = f"{key}.{name}" if len(places) > 1 else key
        files = open_manifest(entry["path"], own_key, cache_dir, entry.get("speaker", speaker))
        weight = entry.get("weight", len(files))
        if not isinstance(weight, float | int) or weight <= 0:
            raise UserError(f"{key}.{name}.weight={weight}: must be above 0")
        corpora.append(Corpus(name, files, weight))
    weighted = [name for name, entry in places.items() if isinstance(entry, Mapping) and "weight" in entry]
    if weighted and len(weighted) < len(places):
        raise UserError(
            f"{key}: {', '.join(weighted)} has a weight and the others have none; give all or none a weight"
        )
    return corpora


def usable(files: Manifest, sample_rate: int, least_seconds: float = 0.0) -> tuple[Manifest, list[BadFile]]:
    """The files that can be drawn from, and what is wrong with the others."""
    problem, rate, seconds = files.column("problem"), files.column("rate"), files.column("seconds")
    slow, brief = rate < sample_rate, seconds < least_seconds
    good = (problem == "") & ~slow & ~brief
    bad = []
    for index in np.flatnonzero(~good):
        told = problem[index]
        if not told and slow[index]:
            told = audio.wrong_rate(rate[index], sample_rate)
        bad.append(
            BadFile(
                files[index].path,
                told or f"too short: {seconds[index]:.2f} s where at least {least_seconds:g} s are needed",
            )
        )
    return files.select(good), bad
