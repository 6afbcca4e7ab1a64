"""Mixtures written down once."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from gtcrn.data import audio
from gtcrn.data.preparation.files import format_named, row_of, write_manifest
from gtcrn.data.preparation.jobs import InputFile, Product
from gtcrn.data.preparation.place import Place
from gtcrn.data.speech import SPLITS, SpeechData
from gtcrn.errors import UserError

TABLE = "table.csv"


class Items:
    """The first items of a dataset as sources (see `jobs.Sources`), epoch after epoch."""

    def __init__(self, numbers: range):
        self.numbers = numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, some: slice) -> Items:
        return Items(self.numbers[some])

    def __iter__(self) -> Iterator[InputFile]:
        return (InputFile(name, f"item {name}", number) for number, name in zip(self.numbers, self.names()))

    def names(self) -> list[str]:
        return [f"{number:07d}" for number in self.numbers]


class Degrade:
    """Items of a dataset as pairs, `noisy/<speaker>_<item>` and `clean/…`, and `table.csv`: what each is made of.

    split: whose items. items: how many; None for one epoch. format, checksum: see `Resample`; where one half of a
    pair would clip, both are turned down.
    """

    doing, unit = "mixing", "item"

    def __init__(self, data: SpeechData, split: str, items: int | None, format: str, checksum: bool):
        if split not in SPLITS:
            raise UserError(f"prepare.split={split} is not one of {', '.join(SPLITS)}")
        if items is not None and items < 1:
            raise UserError(f"prepare.items={items}: must be above 0")
        self.format, self.checksum = format_named(format), checksum
        data.setup((split,))
        self.dataset, self.sample_rate = data.dataset(split), data.sample_rate
        self.items = items or len(self.dataset)

    def sources(self) -> Items:
        return Items(range(self.items))

    def make(self, source: InputFile, place: Place) -> Product:
        epoch, index = divmod(source.what, len(self.dataset))
        item = self.dataset.explain((epoch, index))
        if "clean" not in item.waves:
            raise UserError("has no clean half")
        waves = {half: item.waves[half] for half in ("noisy", "clean")}
        peaks = {half: np.abs(wave).max() for half, wave in waves.items()}
        for half, peak in peaks.items():
            if not peak >= audio.SILENCE:
                raise UserError(f"its {half} half is silent or no number, as of {item.facts['name']}")
        gain = self.format.gain(max(peaks.values()))
        speaker = re.sub(r"[^A-Za-z0-9.-]+", "-", str(item.facts.get("speaker") or "unknown"))
        rows = []
        for half, wave in waves.items():
            name = f"{half}/{speaker}_{source.name}{self.format.suffix}"
            with place.new(name) as waiting:
                self.format.write(waiting, [gain * wave], self.sample_rate, 1)
                rows.append(row_of(waiting, name, speaker, self.checksum))
        facts = {key: _plain(value) for key, value in item.facts.items() if key != "name"}
        entry = {"name": f"{speaker}_{source.name}", "epoch": epoch, "index": index, "gain": gain, **facts}
        return Product(
            [row["path"] for row in rows],
            {"manifest": rows, "table": [entry]},
            counts={"turned down so as not to clip": int(gain < 1)},
        )

    def finish(self, tables: dict[str, pa.Table], sources: Items, place: Place) -> None:
        write_manifest(tables["manifest"], place)
        place.write_csv(TABLE, tables["table"].to_pandas())


def _plain(value: object) -> object:
    return value.item() if isinstance(value, np.generic) else value
