"""Pairs of a noisy and a clean file, and the search for them in two folders."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import nan
from pathlib import Path

import pyarrow as pa

from gtcrn.data.cache import cache_folder
from gtcrn.data.shards import audio_files
from gtcrn.data.speakers import known_speaker, prefix_of
from gtcrn.data.tables import MappedTable, write_by_content
from gtcrn.errors import UserError


@dataclass(frozen=True)
class FilePair:
    """Two mono files of equal length and rate, aligned to the sample; or a recording without a clean half."""

    name: str  # without suffix, e.g. p232_001
    noisy: Path
    clean: Path | None
    speaker: str
    snr: float = nan  # dB; nan until it is known
    frames: int = 0  # length and rate (Hz) of the files as they are on disk; 0 until scanned
    rate: int = 0
    problem: str = ""  # why it can't be used
    noise: str = ""  # its kind, e.g. bus, if it is known

    @property
    def seconds(self) -> float:
        return self.frames / self.rate

    @property
    def files(self) -> tuple[Path, ...]:
        """Return the noisy and, where there is one, the clean file."""
        return (self.noisy,) if self.clean is None else (self.noisy, self.clean)


class PairTable(MappedTable[FilePair]):
    """A table of scanned pairs."""

    def from_row(self, values: dict) -> FilePair:
        values["noisy"], values["clean"] = Path(values["noisy"]), values["clean"] and Path(values["clean"])
        return FilePair(**values)


_SCHEMA = pa.schema(
    [
        ("name", pa.string()),
        ("noisy", pa.string()),
        ("clean", pa.string()),
        ("speaker", pa.string()),
        ("snr", pa.float64()),
        ("frames", pa.int64()),
        ("rate", pa.int32()),
        ("problem", pa.string()),
        ("noise", pa.string()),
    ]
)


def pair_table(pairs: list[FilePair], cache_dir: str | Path | None) -> PairTable:
    """Write scanned pairs into the cache and return them as a table, which takes no memory in the loader's workers."""
    rows = [
        vars(pair) | {"noisy": str(pair.noisy), "clean": None if pair.clean is None else str(pair.clean)}
        for pair in pairs
    ]
    return PairTable(write_by_content(pa.Table.from_pylist(rows, _SCHEMA), cache_folder(cache_dir, "pairs")))


def speaker_of(name: str) -> str:
    """Return the speaker that a name states, e.g. p226 for p226_001.

    It is found by the naming of a known corpus, or else is the text before the first underscore.
    """
    known = known_speaker(name)
    return known[0] if known else prefix_of(name)


def pair_folders(noisy: Path, clean: Path, facts: Mapping[str, Mapping] | None = None) -> list[FilePair]:
    """Pair the audio files of two folder trees by their names, and return the pairs in the order of the names.

    `facts` are what is known of a name, fields of its `FilePair`, e.g. `{"p232_001": {"snr": 17.5}}`. A name found on
    one side only makes a pair as well, with the path at which the other half ought to be: the scan then reports it as
    missing.

    Raises UserError if two files of a tree have one name.
    """
    noisy_files, clean_files = _by_stem(noisy), _by_stem(clean)
    return [
        FilePair(
            name,
            noisy_files[name][1] if name in noisy_files else noisy / clean_files[name][0],
            clean_files[name][1] if name in clean_files else clean / noisy_files[name][0],
            speaker_of(name),
            **(facts or {}).get(name, {}),
        )
        for name in sorted(noisy_files.keys() | clean_files.keys())
    ]


def _by_stem(folder: Path) -> dict[str, tuple[str, Path]]:
    """Return {name without suffix: (path relative to the folder, path to read)} of the audio files of a folder."""
    files: dict[str, tuple[str, Path]] = {}
    for relative, path in audio_files(folder).items():
        stem = Path(relative).stem
        if stem in files:
            raise UserError(
                f"{folder / relative} and {folder / files[stem][0]} have one name; pairs are found by name, rename one"
            )
        files[stem] = relative, path
    return files
