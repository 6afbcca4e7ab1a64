"""`prepare=degrade` writes the items of a dataset, such as mixtures, as pairs of files."""

from __future__ import annotations

import re

import numpy as np
import pyarrow as pa

from gtcrn.data import audio
from gtcrn.data.preparation.files import audio_format, manifest_row, write_manifest
from gtcrn.data.preparation.jobs import NumberedItems, Product, WorkItem
from gtcrn.data.preparation.output import OutputFolder
from gtcrn.data.speech import SPLITS, SpeechData
from gtcrn.errors import UserError

TABLE = "table.csv"


class Degrade:
    """The step that writes items as pairs, `noisy/<speaker>_<item>` and `clean/…`, and in `table.csv` their parts.

    split: the split whose items are written. items: how many; None for one epoch. format, checksum: see `Resample`;
    where one half of a pair would clip, both are turned down.
    """

    doing, unit = "mixing", "item"

    def __init__(self, data: SpeechData, split: str, items: int | None, format: str, checksum: bool):
        if split not in SPLITS:
            raise UserError(f"prepare.split={split} is not one of {', '.join(SPLITS)}")
        if items is not None and items < 1:
            raise UserError(f"prepare.items={items}: must be above 0")
        self.format, self.checksum = audio_format(format), checksum
        data.setup((split,))
        self.dataset, self.sample_rate = data.dataset(split), data.sample_rate
        self.items = items or len(self.dataset)

    def work_items(self) -> NumberedItems:
        return NumberedItems(range(self.items))

    def make(self, item: WorkItem, output: OutputFolder) -> Product:
        epoch, index = divmod(item.value, len(self.dataset))
        explained = self.dataset.explain((epoch, index))
        if "clean" not in explained.waves:
            raise UserError("has no clean half")
        waves = {half: explained.waves[half] for half in ("noisy", "clean")}
        peaks = {half: np.abs(wave).max() for half, wave in waves.items()}
        for half, peak in peaks.items():
            if not peak >= audio.SILENCE:
                raise UserError(f"its {half} half is silent or no number, as of {explained.facts['name']}")
        gain = self.format.gain(max(peaks.values()))
        speaker = re.sub(r"[^A-Za-z0-9.-]+", "-", str(explained.facts.get("speaker") or "unknown"))
        rows = []
        for half, wave in waves.items():
            name = f"{half}/{speaker}_{item.name}{self.format.suffix}"
            with output.writing(name) as partial:
                self.format.write(partial, [gain * wave], self.sample_rate, 1)
                rows.append(manifest_row(partial, name, speaker, self.checksum))
        facts = {key: _plain(value) for key, value in explained.facts.items() if key != "name"}
        entry = {"name": f"{speaker}_{item.name}", "epoch": epoch, "index": index, "gain": gain, **facts}
        return Product(
            [row["path"] for row in rows],
            {"manifest": rows, "table": [entry]},
            counts={"turned down so as not to clip": int(gain < 1)},
        )

    def finish(self, tables: dict[str, pa.Table], items: NumberedItems, output: OutputFolder) -> None:
        write_manifest(tables["manifest"], output)
        output.write_csv(TABLE, tables["table"].to_pandas())


def _plain(value: object) -> object:
    return value.item() if isinstance(value, np.generic) else value
