"""`prepare=resample` copies a corpus at another sample rate."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import soxr

from gtcrn.data import audio
from gtcrn.data.manifest import AudioFile, Manifest
from gtcrn.data.preparation.files import FileItems, audio_format, blocks, manifest_row, write_manifest
from gtcrn.data.preparation.jobs import Product, WorkItem
from gtcrn.data.preparation.output import OutputFolder
from gtcrn.errors import UserError

CHANNELS = ("keep", "first", "mean")


class Resample:
    """The step that copies every file at one rate, sample for sample as `gtcrn.data.audio.resample` gives it.

    sample_rate: Hz. lowest_rate: Hz, below which files are bad; None is sample_rate.
    channels: `keep` all, take the `first`, or their `mean`.
    format: `flac` or `wav`, 16 bits, or `float`, a WAV of 32. What would exceed full scale in 16 bits (resampling
        overshoots a little, and floats may do so anyway) is turned down as a whole file, and counted.
    checksum: add the SHA-256 of every file to the manifest.
    """

    doing, unit = "resampling", "file"

    def __init__(self, sample_rate: int, lowest_rate: int | None, channels: str, format: str, checksum: bool):
        if sample_rate < 1:
            raise UserError(f"prepare.sample_rate={sample_rate}: must be above 0")
        if channels not in CHANNELS:
            raise UserError(f"prepare.channels={channels} is not one of {', '.join(CHANNELS)}")
        self.sample_rate, self.lowest_rate = sample_rate, lowest_rate or sample_rate
        self.channels, self.format, self.checksum = channels, audio_format(format), checksum

    def work_items(self, manifest: Manifest) -> FileItems:
        files = FileItems(manifest)
        files.check_names(with_suffix=False)
        return files

    def make(self, item: WorkItem, output: OutputFolder) -> Product:
        file, name = item.value, self.format.named(item.name)
        if file.rate < self.lowest_rate:
            raise UserError(audio.wrong_rate(file.rate, self.lowest_rate))
        channels = file.channels if self.channels == "keep" else 1
        with output.writing(name) as partial:
            peak = self.format.write(partial, self._resampled(file, channels), self.sample_rate, channels)
            gain = self.format.gain(peak)
            if gain < 1:
                waves = (gain * wave for wave in self._resampled(file, channels))
                self.format.write(partial, waves, self.sample_rate, channels)
            row = manifest_row(partial, name, file.speaker, self.checksum)
        return Product([name], {"manifest": [row]}, counts={"turned down so as not to clip": int(gain < 1)})

    def finish(self, tables: dict[str, pa.Table], items: FileItems, output: OutputFolder) -> None:
        write_manifest(tables["manifest"], output)

    def _resampled(self, file: AudioFile, channels: int) -> Iterator[np.ndarray]:
        """Yield the resampled file in blocks, (N, channels) each, together as long as `audio.resampled_length` says."""
        if file.rate == self.sample_rate:
            yield from (self._chosen(block) for block in blocks(file))
            return
        missing = audio.resampled_length(file.frames, file.rate, self.sample_rate)
        stream = soxr.ResampleStream(file.rate, self.sample_rate, channels, dtype="float32", quality="HQ")
        for block in blocks(file):
            wave = stream.resample_chunk(self._chosen(block))[:missing]
            missing -= len(wave)
            yield wave
        wave = stream.resample_chunk(np.zeros((0, channels), np.float32), last=True)[:missing]
        yield np.pad(wave, [(0, missing - len(wave)), (0, 0)])

    def _chosen(self, block: np.ndarray) -> np.ndarray:
        """Return the channels to be written, (N, C) or (N, 1), of a block (N, C)."""
        if self.channels == "mean":
            return block.mean(axis=1, keepdims=True)
        return block if self.channels == "keep" else np.ascontiguousarray(block[:, :1])
