"""Recordings of noisy speech alone, for a training that has its targets from elsewhere."""

from __future__ import annotations

from pathlib import Path

from gtcrn.data.pairs import Pair, speaker_of
from gtcrn.data.seeding import shares_of
from gtcrn.data.shards import audio_files
from gtcrn.errors import UserError


class NoisyRecordings:
    """All audio files of a folder, at any depth, as pairs without a clean half.

    validation_share: of the files, at least one, which never train; they test too.
    """

    def __init__(self, root: str | None, validation_share: float):
        if root is None:
            raise UserError("data.root is not set: give data.root=FOLDER, with recordings of noisy speech")
        if not 0 < validation_share < 1:
            raise UserError(f"data.validation_share={validation_share}: must lie between 0 and 1")
        self.root, self.validation_share = Path(root).expanduser(), validation_share

    def pairs(self, split: str) -> list[Pair]:
        """Of `train`, `validation` or `test`, not yet scanned. Raises UserError if there are not two files."""
        files = audio_files(self.root) if self.root.is_dir() else {}
        if len(files) < 2:
            raise UserError(f"data.root={self.root} should hold two recordings or more: some train, others validate")
        shares = shares_of(list(files))
        held_out = max(self.validation_share, shares.min())
        held_out = min(held_out, sorted(shares)[-2])  # and at least one that trains
        return [
            Pair(str(Path(file).with_suffix("")), path, None, speaker_of(path.stem))
            for (file, path), share in zip(files.items(), shares)
            if (share > held_out) == (split == "train")
        ]
