"""The good recordings of a corpus, chosen by measures that need no reference."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import compress

import numpy as np
import pandas as pd
import pyarrow as pa

from gtcrn.data.manifest import FILE, Manifest
from gtcrn.data.preparation.files import Files, table_of
from gtcrn.data.preparation.jobs import InputFile, Product
from gtcrn.data.preparation.place import Place
from gtcrn.data.preparation.quality import measure
from gtcrn.data.rows import write_rows

TABLE = "quality.csv"


@dataclass(frozen=True)
class Limit:
    """What a measure must at least, or at most, be."""

    value: float
    is_least: bool

    def fails(self, values: np.ndarray) -> np.ndarray:
        return values < self.value if self.is_least else values > self.value

    def __str__(self) -> str:
        return f"{'below' if self.is_least else 'above'} {self.value:g}"


class Filter:
    """Measures every file (see `quality.Quality`) and leaves out those beyond a limit; None for no limit.

    `manifest.arrow` lists the others, where they are; `quality.csv` has the measures of all.
    """

    doing, unit = "measuring", "file"

    def __init__(
        self,
        least_snr: float | None,
        most_clipping: float | None,
        most_silence: float | None,
        least_bandwidth: float | None,
    ):
        limits = {
            "snr": (least_snr, True),
            "clipping": (most_clipping, False),
            "silence": (most_silence, False),
            "bandwidth": (least_bandwidth, True),
        }
        self.limits = {name: Limit(*limit) for name, limit in limits.items() if limit[0] is not None}

    def sources(self, manifest: Manifest) -> Files:
        return Files(manifest)

    def make(self, source: InputFile, place: Place) -> Product:
        row = {"path": source.name, "seconds": source.what.seconds, **asdict(measure(source.what))}
        return Product(tables={"quality": [row]})

    def finish(self, tables: dict[str, pa.Table], sources: Files, place: Place) -> None:
        table = tables["quality"].to_pandas()
        table["left_out"] = self._reasons(table)
        good = pd.Series(sources.names()).isin(table["path"][table["left_out"] == ""])
        with place.new(FILE) as waiting:
            write_rows(table_of(sources.manifest.select(good.to_numpy()), place.root), waiting)
        bad = tables["failures"].to_pandas().rename(columns={"problem": "left_out"})
        bad["path"] = bad["path"].str.removeprefix(f"{sources.manifest.root}/")
        place.write_csv(TABLE, pd.concat([table, bad]))

    def _reasons(self, table: pd.DataFrame) -> list[str]:
        """Of each row, e.g. "snr below 15; silence above 0.8"; "" if it is good."""
        failing = {f"{name} {limit}": limit.fails(table[name].to_numpy()) for name, limit in self.limits.items()}
        return ["; ".join(compress(failing, row)) for row in zip(*failing.values())] if failing else ""
