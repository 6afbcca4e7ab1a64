"""`prepare=segment` cuts the files of a corpus into pieces."""

from __future__ import annotations

from collections.abc import Callable
from math import ceil

import numpy as np
import pyarrow as pa

from gtcrn.data import audio
from gtcrn.data.manifest import AudioFile, Manifest
from gtcrn.data.mixing import active_frames
from gtcrn.data.preparation.files import FileItems, audio_format, blocks, manifest_row, write_manifest
from gtcrn.data.preparation.jobs import Product, WorkItem
from gtcrn.data.preparation.output import OutputFolder
from gtcrn.errors import UserError

_FRAME = 0.02  # s


class Segment:
    """The step that cuts every file into pieces, `<name>_0003.wav`. The numbers count the pieces left out as well.

    seconds: their length. hop: from the beginning of one to that of the next, s; None is `seconds`.
    least_seconds: a last piece that is shorter is left out, and so is a shorter file, which is bad.
    least_active: share of a piece that must be active speech, by the level of the whole file (see `active_frames`).
        A piece with nothing at all in it is always left out.
    format, checksum: see `Resample`. Samples of 16 bits are not changed.
    """

    doing, unit = "cutting", "file"

    def __init__(
        self,
        seconds: float,
        hop: float | None,
        least_seconds: float,
        least_active: float,
        format: str,
        checksum: bool,
    ):
        self.hop = seconds if hop is None else hop
        if not _FRAME <= least_seconds <= seconds:
            raise UserError(
                f"prepare.least_seconds={least_seconds}: must lie between {_FRAME} and prepare.seconds={seconds}"
            )
        if self.hop < _FRAME:
            raise UserError(f"prepare.hop={hop}: must be at least {_FRAME}")
        if not 0 <= least_active <= 1:
            raise UserError(f"prepare.least_active={least_active}: a share lies between 0 and 1")
        self.seconds, self.least_seconds, self.least_active = seconds, least_seconds, least_active
        self.format, self.checksum = audio_format(format), checksum

    def work_items(self, manifest: Manifest) -> FileItems:
        files = FileItems(manifest)
        files.check_names(with_suffix=False)
        return files

    def make(self, item: WorkItem, output: OutputFolder) -> Product:
        file = item.value
        length, hop, least = (round(part * file.rate) for part in (self.seconds, self.hop, self.least_seconds))
        if file.frames < least:
            raise UserError(f"too short: {file.seconds:.2f} s where at least {self.least_seconds:g} s are needed")
        gain = self.format.gain(file.peak)
        activity = self._activity(file) if self.least_active else None
        rows = []
        for number, piece in enumerate(blocks(file, length, hop)):
            if len(piece) < least or np.abs(piece).max() < audio.SILENCE:
                continue
            if activity is not None and activity(number * hop, len(piece)) < self.least_active:
                continue
            name = self.format.named(f"{item.name.rpartition('.')[0]}_{number:04d}.wav")
            with output.writing(name) as partial:
                self.format.write(partial, [gain * piece], file.rate, file.channels)
                rows.append(manifest_row(partial, name, file.speaker, self.checksum))
        counts = {"pieces": len(rows), "pieces left out": number + 1 - len(rows)}
        return Product([row["path"] for row in rows], {"manifest": rows}, counts=counts)

    def finish(self, tables: dict[str, pa.Table], items: FileItems, output: OutputFolder) -> None:
        write_manifest(tables["manifest"], output)

    def _activity(self, file: AudioFile) -> Callable[[int, int], float]:
        """Return the function that gives, for a first sample and a number of samples, their share of active speech."""
        frame = round(_FRAME * file.rate)
        powers = []
        for block in blocks(file, 10000 * frame):
            framed = block[: len(block) // frame * frame, 0].reshape(-1, frame)
            powers.append(np.einsum("tn,tn->t", framed, framed, dtype=np.float64))
        active = active_frames(np.concatenate(powers))
        return lambda start, length: float(active[start // frame : ceil((start + length) / frame)].mean())
