"""task=profile profile=data: what it prints and writes."""

import json
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from gtcrn.analysis.throughput import LoaderPace, Pace, TableCost
from gtcrn.errors import UserError
from gtcrn.tasks import profile

CONF = Path(__file__).parents[2] / "conf"


def profiled(*overrides: str):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        profile.run(compose("config", ["task=profile", "profile=data", *overrides]))


@pytest.fixture
def measured(monkeypatch):
    """The clock and the memory of this machine are not what is tested."""
    alone = Pace(items_per_second=25.0, real_time=100.0, decoding=0.25, mixing=0.5, over_decoding=4.0)
    table = TableCost(
        1_000_000, 2.5, {"rss": 501.0, "pss": 400.0, "uss": 300.0}, {"rss": 99.0, "pss": 50.0, "uss": 20.0}
    )
    monkeypatch.setattr(profile, "pace", lambda dataset, sample_rate: alone)
    monkeypatch.setattr(profile, "loader_pace", lambda data: LoaderPace(0.5, 50.0, 200.0))
    monkeypatch.setattr(profile, "table_cost", lambda rows: table)


@pytest.fixture
def corpora(recordings, tmp_path):
    mini = recordings / "dns_mini"
    places = {"speech": mini / "extra_clean", "noise": mini / "noise", "rir": mini / "rir", "cache_dir": tmp_path}
    return ["data=dns", f"run_dir={tmp_path / 'out'}", *(f"data.{key}={place}" for key, place in places.items())]


def lines_of(screen: str) -> dict[str, list[str]]:
    """{quantity: [value, target]}"""
    rows = (line.strip().split("  ") for line in screen.splitlines())
    return {row[0]: [cell.strip() for cell in row[1:] if cell.strip()] for row in rows}


def test_values_stand_beside_their_targets(corpora, measured, tmp_path, capsys):
    profiled(*corpora)
    lines = lines_of(capsys.readouterr().out)
    assert lines["one process: × real time"] == ["100", "≥ 150, missed"]
    assert lines["of the time, mixing"] == ["50 %"]
    assert lines["loader with num_workers=2: × real time"] == ["200"]
    assert lines["from its path to the first item"] == ["2.50 s", "≤ 3, met"]
    assert lines["memory of the training process, MB"] == ["501 / 400 / 300", "≤ 500, missed"]
    assert lines["memory of a loader worker, MB"] == ["99 / 50 / 20", "≤ 500, met"]
    written = json.loads((tmp_path / "out" / "profile.json").read_text())
    assert written["process"]["real_time"] == 100 and written["table"]["main"]["rss"] == 501
    assert written["loader"]["first_batch"] == 0.5 and written["setup_seconds"] > 0


def test_there_is_no_target_for_other_crops(corpora, measured, capsys):
    profiled(*corpora, "data.segment_seconds=1")
    assert lines_of(capsys.readouterr().out)["one process: × real time"] == ["100"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("profile=dta", "profile=dta: must be one of model, data"),
        ("manifest_rows=10", "manifest_rows=10: must be a whole number of at least 1000"),
    ],
)
def test_mistakes_are_named(corpora, override, message):
    with pytest.raises(UserError, match=message):
        profiled(*corpora, override)
