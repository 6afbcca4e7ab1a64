"""`prepare=filter` chooses the good recordings of a corpus by measures that need no reference."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import compress

import numpy as np
import pandas as pd
import pyarrow as pa

from gtcrn.data.manifest import FILE, Manifest
from gtcrn.data.preparation.files import FileItems, manifest_table
from gtcrn.data.preparation.jobs import Product, WorkItem
from gtcrn.data.preparation.output import OutputFolder
from gtcrn.data.preparation.quality import measure
from gtcrn.data.tables import write_table

TABLE = "quality.csv"


@dataclass(frozen=True)
class Limit:
    """The value that a measure must reach (`is_least`), or must not exceed."""

    value: float
    is_least: bool

    def fails(self, values: np.ndarray) -> np.ndarray:
        return values < self.value if self.is_least else values > self.value

    def __str__(self) -> str:
        return f"{'below' if self.is_least else 'above'} {self.value:g}"


class Filter:
    """The step that measures every file (see `quality.Quality`) and leaves out those beyond a limit; None is no limit.

    `manifest.arrow` lists the others by their paths in the input; `quality.csv` has the measures of all.
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

    def work_items(self, manifest: Manifest) -> FileItems:
        return FileItems(manifest)

    def make(self, item: WorkItem, output: OutputFolder) -> Product:
        row = {"path": item.name, "seconds": item.value.seconds, **asdict(measure(item.value))}
        return Product(tables={"quality": [row]})

    def finish(self, tables: dict[str, pa.Table], items: FileItems, output: OutputFolder) -> None:
        table = tables["quality"].to_pandas()
        table["left_out"] = self._reasons(table)
        good = pd.Series(items.names()).isin(table["path"][table["left_out"] == ""])
        with output.writing(FILE) as partial:
            write_table(manifest_table(items.manifest.select(good.to_numpy()), output.root), partial)
        bad = tables["failures"].to_pandas().rename(columns={"problem": "left_out"})
        bad["path"] = bad["path"].str.removeprefix(f"{items.manifest.root}/")
        output.write_csv(TABLE, pd.concat([table, bad]))

    def _reasons(self, table: pd.DataFrame) -> list[str]:
        """Return why each row is left out, e.g. "snr below 15; silence above 0.8"; "" for a good one."""
        failing = {f"{name} {limit}": limit.fails(table[name].to_numpy()) for name, limit in self.limits.items()}
        return ["; ".join(compress(failing, row)) for row in zip(*failing.values())] if failing else ""
