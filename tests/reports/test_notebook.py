"""How notebooks find their runs, and what they say where there are none."""

import json
from pathlib import Path

import pytest

pytest.importorskip("IPython", reason="IPython is not installed: pip install -e '.[dev]'")

from gtcrn.errors import UserError
from gtcrn.reports.notebook import best_runs, open_runs, swept
from gtcrn.reports.runs import read_runs
from gtcrn.reports.sweeps import compare


def write_run(folder: Path, pesq: float | None, seed: int = 1, **knobs) -> None:
    """A finished run, or one that failed."""
    (folder / ".hydra").mkdir(parents=True)
    config = {"task": "train", "run_dir": "${hydra:runtime.output_dir}", "seed": seed, "model": knobs}
    (folder / ".hydra/config.yaml").write_text(
        "\n".join(f"{key}: {json.dumps(value)}" for key, value in config.items())
    )
    if pesq is None:
        (folder / "error.txt").write_text("out of memory")
        return
    (folder / "summary.json").write_text(json.dumps({"test": {"enhanced_pesq_wb": pesq}}))
    (folder / "test/enhanced").mkdir(parents=True)


@pytest.fixture
def outputs(tmp_path, monkeypatch) -> Path:
    """outputs/ of a repository, with notebooks/ beside it, where we are."""
    monkeypatch.delenv("GTCRN_RUNS", raising=False)
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    for number, (r, seed, pesq) in enumerate(((8, 1, 2.0), (8, 2, 2.2), (12, 1, 2.5), (16, 1, 2.3), (20, 1, None))):
        write_run(tmp_path / f"outputs/{number}", pesq, seed, r=r)
    return tmp_path / "outputs"


def test_outputs_are_found_from_the_repository_and_from_notebooks(outputs, monkeypatch):
    assert len(open_runs("python run.py")) == 5
    monkeypatch.chdir(outputs.parent)
    assert len(open_runs("python run.py")) == 5
    assert len(open_runs("python run.py", "outputs/3")) == 1


def test_the_environment_names_a_folder_and_the_notebook_another(outputs, monkeypatch):
    monkeypatch.setenv("GTCRN_RUNS", str(outputs / "0"))
    assert open_runs("python run.py")["model.r"].tolist() == [8]
    assert open_runs("python run.py", outputs / "2")["model.r"].tolist() == [12]


@pytest.mark.parametrize(
    ("folder", "message"),
    [("nowhere", "nowhere: no such folder"), ("outputs/4", "outputs/4: no finished run in it yet")],
)
def test_without_a_finished_run_a_line_tells_the_command(outputs, folder, message):
    with pytest.raises(UserError, match=rf"^{message}.*: python run.py -m$"):
        open_runs("python run.py -m", folder)


def test_the_best_configurations_that_hold_something(outputs):
    sweep = compare(read_runs(outputs))[0]
    best = best_runs(sweep, 2, "enhanced", "python run.py")
    assert best["run"].tolist() == ["r=12", "r=16"], "one run each, the best first"
    assert best_runs(sweep, 9, "enhanced", "")["run"].tolist() == ["r=12", "r=16", "r=8"]
    assert best_runs(sweep, 1, "enhanced", "")["run"].tolist() == ["2"], "alone it has only its own name"
    with pytest.raises(UserError, match="none of the 4 finished runs has scores.csv; make some with: python run.py"):
        best_runs(sweep, 2, "scores.csv", "python run.py")


def test_knobs_that_were_swept(outputs):
    runs = open_runs("")
    write_run(outputs / "5", 2.0, width_mult=1)
    assert swept(open_runs(""), ["model.r"], "")["run"].tolist() == runs["run"].tolist(), (
        "one that has no r is left out"
    )
    for knob in ("model.width_mult", "model.nothing"):
        with pytest.raises(UserError, match=f"{knob} does not vary in these 6 runs; make some with: python run.py -m"):
            swept(open_runs(""), [knob], "python run.py -m")
