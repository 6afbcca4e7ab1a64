"""Pairs of a noisy and a clean file, and how to find them in two folders."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import nan
from pathlib import Path

from gtcrn.data import audio
from gtcrn.errors import UserError


@dataclass(frozen=True)
class Pair:
    """Two mono files of equal length and rate, aligned to the sample."""

    name: str  # without suffix, e.g. p232_001
    noisy: Path
    clean: Path
    speaker: str
    snr: float = nan  # dB; nan until it is known
    frames: int = 0  # length and rate (Hz) of the files as they are on disk; 0 until scanned
    rate: int = 0

    @property
    def seconds(self) -> float:
        return self.frames / self.rate


def speaker_of(name: str) -> str:
    """p226 of p226_001: what stands before the first underscore."""
    return name.split("_")[0]


def pair_folders(noisy: Path, clean: Path, snr: Mapping[str, float] | None = None) -> list[Pair]:
    """Pairs the audio files of two folder trees by their names, in the order of the names.

    `snr` gives the dB of the files for which it is known. A name found on one side only makes a pair as well,
    with the path at which the other half ought to be: the scan then reports it as missing.
    """
    noisy_files, clean_files = _audio_files(noisy), _audio_files(clean)
    return [
        Pair(
            name,
            noisy_files.get(name) or noisy / clean_files[name].relative_to(clean),
            clean_files.get(name) or clean / noisy_files[name].relative_to(noisy),
            speaker_of(name),
            (snr or {}).get(name, nan),
        )
        for name in sorted(noisy_files.keys() | clean_files.keys())
    ]


def _audio_files(folder: Path) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if audio.is_audio(path):
            if path.stem in files:
                raise UserError(f"{path} and {files[path.stem]} have one name; pairs are found by name, rename one")
            files[path.stem] = path
    return files
