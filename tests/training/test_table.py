"""metrics.csv keeps all logged values, whatever happens to the run."""

import errno
import os

import pandas as pd
import pytest

from gtcrn.errors import UserError
from gtcrn.training.table import MetricsTable


def test_a_resumed_table_has_every_step_once(tmp_path):
    table = MetricsTable(tmp_path)
    for step in range(4):
        table.log_metrics({"train/loss": 1.5 - step}, step)
    table.log_metrics({"val/stoi": 0.5}, 3)
    before = (tmp_path / "metrics.csv").read_text()

    (tmp_path / "metrics.csv").write_text(before + "0.7")  # a line that a full disk cut
    resumed = MetricsTable(tmp_path, 2)
    assert pd.read_csv(tmp_path / "metrics.csv")["step"].tolist() == [0, 1]
    for step in (2, 3):
        resumed.log_metrics({"train/loss": 1.5 - step}, step)
    resumed.log_metrics({"val/stoi": 0.5}, 3)
    assert (tmp_path / "metrics.csv").read_text() == before
    MetricsTable(tmp_path)
    assert not (tmp_path / "metrics.csv").exists()  # a run of its own begins


@pytest.mark.parametrize(
    ("damage", "kept", "lost"),
    [
        (lambda text: text + "0.7,1,2,3\n", [0, 1, 2], 1),  # more values than columns
        (lambda text: text + "\0\xff,\n", [0, 1, 2], 1),
        (lambda text: text.replace("\n1,", "\nx,"), [0, 2], 1),
        (lambda text: "", [], 0),
        (lambda text: "no table at all\n1,2\n3\n", [], 2),
    ],
)
def test_rows_that_are_damaged_are_told_and_left_out(tmp_path, caplog, damage, kept, lost):
    table = MetricsTable(tmp_path)
    for step in range(3):
        table.log_metrics({"train/loss": 1.5 - step}, step)
    (tmp_path / "metrics.csv").write_text(damage((tmp_path / "metrics.csv").read_text()), encoding="latin-1")
    MetricsTable(tmp_path, 3).log_metrics({"train/loss": 0.5}, 3)
    assert pd.read_csv(tmp_path / "metrics.csv")["step"].tolist() == [*kept, 3]
    assert ("metrics.csv: damaged: " in caplog.text) == bool(lost)
    assert f"{lost} of its {lost + len(kept)} rows" in caplog.text or not lost


def test_rows_outlive_a_failure_while_a_column_is_added(tmp_path, monkeypatch):
    table = MetricsTable(tmp_path)
    table.log_metrics({"train/loss": 1.5}, 0)

    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="metrics.csv: can't be written"):
        table.log_metrics({"val/stoi": 0.5}, 0)
    assert pd.read_csv(tmp_path / "metrics.csv").to_dict("list") == {"step": [0], "train/loss": [1.5]}
