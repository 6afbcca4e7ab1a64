"""task=inspect: items of a corpus are written part by part, to hear, see and read what a model is trained on."""

from __future__ import annotations

import logging
from math import inf, isnan, log10
from pathlib import Path

import numpy as np
import pandas as pd
import rich.box
from omegaconf import DictConfig, ListConfig
from pandas.api.types import is_numeric_dtype
from rich.console import Console
from rich.table import Table

from gtcrn.data import audio
from gtcrn.data.datasets import ExplainedItem
from gtcrn.data.speech import SpeechData
from gtcrn.errors import UserError
from gtcrn.files import write_text
from gtcrn.plots.figures import items_figure, save
from gtcrn.plots.tables import write_csv
from gtcrn.tasks.building import build

log = logging.getLogger(__name__)

PICTURED = 24  # items in items.png; a larger picture opens slowly
DRAWN = ("noisy", "clean", "mixture")
HEADINGS = {  # of the first columns
    "name": "name",
    "snr": "SNR, dB",
    "level": "level, dBFS",
    "noisy_peak": "peak, dBFS",
    "noisy_rms": "RMS, dBFS",
    "room": "room",
    "target": "target",
    "band_limit": "band limit, Hz",
}
TITLE = {
    "snr": "SNR {} dB",
    "noisy_rms": "RMS {} dBFS",
    "room": "room {}",
    "target": "target {}",
    "band_limit": "band limit {} Hz",
}


def run(cfg: DictConfig) -> None:
    data = build(cfg.data)
    data.on_bad_file = "skip"  # a bad file, which would end a training, is only listed here
    data.setup((cfg.split,))
    dataset, folder = data.dataset(cfg.split), Path(cfg.run_dir)
    items = {index: dataset.explain((cfg.epoch, index)) for index in chosen(cfg, len(dataset))}
    for index, item in items.items():
        for part, wave in item.waves.items():
            audio.write(folder / f"{index:03d}_{part}.wav", wave, data.sample_rate, subtype="FLOAT")
    table = tabulate(items)
    write_csv(table.reset_index(), folder / "items.csv", float_format="%.6g")
    draw(items, table, data.sample_rate, folder / "items.png")
    heading = f"{cfg.split}, epoch {cfg.epoch}, {data.sample_rate} Hz"
    write_text(folder / "items.md", f"# {heading}\n\n{markdown(table, data)}")
    for line in data.describe():
        log.info(line)
    Console().print(terminal(table, heading))
    log.info("WAVs of all parts, items.png, items.csv and items.md are in %s", folder)


def chosen(cfg: DictConfig, length: int) -> list[int]:
    """Return the indices that `index` and `n` name. Raises UserError if a dataset of this length has none such."""
    listed = isinstance(cfg.index, ListConfig)
    named = list(cfg.index) if listed else [cfg.index]
    if not named or max(named) >= length:
        raise UserError(f"index={cfg.index}: the {cfg.split} set has the items 0 to {length - 1}")
    if listed:
        return named
    last = min(cfg.index + cfg.n, length)
    if last - cfg.index < cfg.n:
        log.info("n=%d: the %s set has only %d items from index %d on", cfg.n, cfg.split, last - cfg.index, cfg.index)
    return list(range(cfg.index, last))


def tabulate(items: dict[int, ExplainedItem]) -> pd.DataFrame:
    """Return a table with a row per item: the facts that its dataset knows, and the levels of all parts."""
    rows = [item.facts | {"room": Path(item.facts.get("rir", "")).stem} | levels(item) for item in items.values()]
    known = [{key: value for key, value in row.items() if value == value and value != ""} for row in rows]
    table = pd.DataFrame(known, index=pd.Index(items, name="index"))
    first = [key for key in HEADINGS if key in table]
    return table[[*first, *table.columns.difference(first, sort=False)]]


def levels(item: ExplainedItem) -> dict[str, float]:
    """Return peak and RMS of every part in dBFS, under `noisy_peak`, `noisy_rms` and so on."""
    measured = {}
    for part, wave in item.waves.items():
        amplitudes = {"peak": np.abs(wave).max(), "rms": np.sqrt(np.mean(wave**2, dtype=np.float64))}
        for name, amplitude in amplitudes.items():
            measured[f"{part}_{name}"] = 20 * log10(amplitude) if amplitude > 0 else -inf
    return measured


def draw(items: dict[int, ExplainedItem], table: pd.DataFrame, sample_rate: int, file: Path) -> None:
    if len(items) > PICTURED:
        log.info("%s shows the first %d items", file.name, PICTURED)
    rows = [
        (title(index, table.loc[index]), {part: item.waves[part] for part in DRAWN if part in item.waves})
        for index, item in list(items.items())[:PICTURED]
    ]
    save(items_figure(rows, sample_rate), file)


def title(index: int, row: pd.Series) -> str:
    """Return e.g. `003  000003_LJ001-0008    SNR 12.3 dB    RMS -25.1 dBFS    room rir2    target early`."""
    known = [words.format(cell(row[key])) for key, words in TITLE.items() if key in row and not pd.isna(row[key])]
    return "    ".join([f"{index:03d}  {row['name']}", *known])


def cell(value: str | float) -> str:
    if isinstance(value, str):
        return value
    return "–" if isnan(value) else f"{value:.1f}".replace("inf", "∞")


def terminal(table: pd.DataFrame, title: str) -> Table:
    shown = Table("", title=title, title_justify="left", box=rich.box.SIMPLE_HEAD)
    keys = [key for key in HEADINGS if key in table and key != "level"]  # it is the RMS, except after a denoiser
    for key in keys:
        heading = HEADINGS[key].replace(", ", "\n")
        shown.add_column(heading, justify="right" if is_numeric_dtype(table[key]) else "left", overflow="fold")
    for index, row in table.iterrows():
        shown.add_row(f"{index:03d}", *(cell(row[key]) for key in keys))
    return shown


def markdown(table: pd.DataFrame, data: SpeechData) -> str:
    """Return the text of items.md: the data, a line per item with all its facts, the picture, and the bad files."""
    table = table[[key for key in table if key in HEADINGS or not key.endswith(("_peak", "_rms"))]]
    dashes = ["--:" if is_numeric_dtype(table[key]) else "---" for key in table]
    lines = [["", *(HEADINGS.get(key, key) for key in table)], ["--:", *dashes]]
    lines += [[f"{index:03d}", *map(cell, row)] for index, row in table.iterrows()]
    parts = [*data.describe(), "\n".join("| " + " | ".join(line) + " |" for line in lines), "![](items.png)"]
    if data.bad_files:
        parts.append(f"Bad files, {len(data.bad_files)}; training needs data.on_bad_file=skip to go on without them:")
        parts.append("\n".join(f"- {bad}" for bad in data.bad_files))
    return "\n\n".join(parts) + "\n"
