"""The logger of metrics.csv, which holds every logged value."""

from __future__ import annotations

import csv
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning.core.saving import save_hparams_to_yaml
from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities import rank_zero_only

from gtcrn.errors import UserError
from gtcrn.files import unwritable, whole

log = logging.getLogger(__name__)


class MetricsTable(Logger):
    """A logger that writes `metrics.csv`, a row per call, and `hparams.yaml`, the configuration of the run.

    Lightning's CSVLogger deletes the rows of a resumed run, and all rows if it is killed while a column is added.

    folder: that of the run. steps: those before the run was resumed; rows of later steps, counted from 0, are dropped.

    Raises UserError if a file can't be written.
    """

    def __init__(self, folder: Path, steps: int = 0):
        super().__init__()
        self.folder = folder
        self.path = folder / "metrics.csv"
        self.columns: list[str] = []
        self._begin([row for row in self._rows() if int(row["step"]) < steps])

    @property
    def name(self) -> str:
        return ""

    @property
    def version(self) -> str:
        return ""

    @property
    def save_dir(self) -> str:
        return str(self.folder)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        row = {**metrics, "step": step}
        if row.keys() <= set(self.columns):
            try:
                with self.path.open("a", newline="") as file:
                    csv.DictWriter(file, self.columns).writerow(row)
            except OSError as error:
                raise UserError(unwritable(self.path, error)) from error
        else:
            self._begin([*self._rows(), row])

    @rank_zero_only
    def log_hyperparams(self, params: Mapping[str, Any]) -> None:
        with whole(self.folder / "hparams.yaml") as partial:
            save_hparams_to_yaml(partial, dict(params))

    @rank_zero_only
    def _begin(self, rows: list[dict[str, Any]]) -> None:
        """Write the file again, with all columns that the rows have."""
        self.columns = sorted({column for row in rows for column in row})
        if not rows:
            self.path.unlink(missing_ok=True)
            return
        with whole(self.path) as partial, partial.open("w", newline="") as file:
            writer = csv.DictWriter(file, self.columns)
            writer.writeheader()
            writer.writerows(rows)

    def _rows(self) -> list[dict[str, Any]]:
        if not self.path.is_file():
            return []
        text = self.path.read_text(errors="replace").replace("\0", "")
        rows = list(csv.DictReader(text[: text.rfind("\n") + 1].splitlines()))  # a full disk may leave half a line
        good = [row for row in rows if None not in row and (row.get("step") or "").isdecimal()]
        if len(good) < len(rows):
            log.warning("%s: damaged: %d of its %d rows are left out", self.path, len(rows) - len(good), len(rows))
        return good
