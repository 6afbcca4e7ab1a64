"""Recordings of noisy speech without clean halves, for a training that does not get its targets from the corpus."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from gtcrn.data.pairs import FilePair
from gtcrn.data.shards import audio_files
from gtcrn.data.speakers import speaker_rule, split_of
from gtcrn.errors import UserError, counted
from gtcrn.files import expanded


class NoisyRecordings:
    """All audio files of a folder, at any depth, as pairs without a clean half.

    validation_share: share of the files, or with `held_out_by="speaker"` of the speakers, at least one, that never
        trains. It serves as the test set too. Files of unknown speakers are for training then.

    Raises UserError if the folder is not set or a setting is out of range.
    """

    def __init__(self, root: str | None, validation_share: float, held_out_by: str = "file"):
        if root is None:
            raise UserError("data.root is not set: give data.root=FOLDER, with recordings of noisy speech")
        if not 0 < validation_share < 1:
            raise UserError(f"data.validation_share={validation_share}: must lie between 0 and 1")
        if held_out_by not in ("speaker", "file"):
            raise UserError(f"data.held_out_by={held_out_by} is not one of speaker, file")
        self.root, self.validation_share = expanded(root), validation_share
        self.held_out_by = held_out_by

    def pairs(self, split: str) -> list[FilePair]:
        """Return the recordings of `train`, `validation` or `test`, not yet scanned.

        Raises UserError if there are not two files or speakers.
        """
        files = audio_files(self.root) if self.root.is_dir() else {}
        rule = speaker_rule(files)
        speakers = [rule(file)[0] for file in files]
        groups = np.array(speakers if self.held_out_by == "speaker" else list(files), object)
        splits = split_of(groups, {"validation": self.validation_share})
        if splits is None and self.held_out_by == "speaker":
            known = len(set(speakers) - {""})
            raise UserError(
                f"data.root={self.root}: the names of {counted(len(files), 'file')} tell "
                f"{counted(known, 'speaker')}, too few to train and validate; hold out files instead, whoever speaks "
                "in them: data.held_out_by=file"
            )
        if splits is None:
            raise UserError(f"data.root={self.root} should hold two recordings or more: some train, others validate")
        return [
            FilePair(str(Path(file).with_suffix("")), path, None, speaker)
            for (file, path), speaker, owner in zip(files.items(), speakers, splits)
            if (owner == "train") == (split == "train")
        ]

    def tests_on(self) -> str:
        return "validation"
