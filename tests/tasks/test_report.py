"""task=report as a user runs it; the numbers are tested in tests/reports."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from fixtures.commands import compose

from gtcrn.errors import UserError
from gtcrn.tasks import report


def write_run(folder: Path, r: int, pesq: float | None) -> None:
    """Write a finished run with audio, or a failed one if there is no score."""
    (folder / ".hydra").mkdir(parents=True)
    config = f"task: train\nrun_dir: ${{hydra:runtime.output_dir}}\nmodel:\n  r: {r}\nseed: 1\n"
    (folder / ".hydra/config.yaml").write_text(config)
    if pesq is None:
        (folder / "error.txt").write_text("out of memory\nTraceback")
        return
    (folder / "summary.json").write_text(json.dumps({"test": {"enhanced_pesq_wb": pesq}, "cost": {"mmacs_exact": r}}))
    wave = np.random.default_rng(r).normal(0, 0.1, 16000).astype("float32")
    for condition in ("noisy", "enhanced"):
        (folder / "test" / condition).mkdir(parents=True)
        soundfile.write(folder / "test" / condition / "anna_1.wav", wave, 16000)
    (folder / "test/scores.csv").write_text(f"name,snr,enhanced_pesq_wb,failures\nanna_1,5,{pesq},\n")


def reported(*overrides: str) -> None:
    report.run(compose("task=report", *overrides))


@pytest.fixture
def sweep(tmp_path) -> Path:
    for r, pesq in ((8, 1.5), (12, 2.5), (-1, None)):
        write_run(tmp_path / "sweep" / str(r), r, pesq)
    return tmp_path / "sweep"


def test_a_sweep_is_reported_in_its_own_folder(sweep, capsys):
    reported(f"runs={sweep}")
    screen = capsys.readouterr().out
    names = ["sweep.csv", "sweep.md", "paired.csv", "quality_macs.png", "listening.html"]
    assert screen.splitlines()[-5:] == [str(sweep / name) for name in names]
    assert all((sweep / name).stat().st_size for name in names)
    assert "r=12" in screen and "2.500" in screen and "-1 (r=-1): failed, out of memory" in screen
    page = (sweep / "listening.html").read_text()
    assert "r=12" in page and "anna_1" in page


def test_several_folders_are_reported_in_the_folder_of_the_run(sweep, tmp_path):
    write_run(tmp_path / "other", 16, 2.0)
    reported(f"runs=[{sweep},{tmp_path / 'other'}]", f"run_dir={tmp_path / 'report'}", "page=false")
    written = {path.name for path in (tmp_path / "report").iterdir()}
    assert written == {"sweep.csv", "sweep.md", "paired.csv", "quality_macs.png", "quality_knob.png"}
    assert "4 runs: 3 finished, 1 failed" in (tmp_path / "report/sweep.md").read_text()
    assert not (sweep / "sweep.md").exists()


def test_a_sweep_of_failed_jobs_is_no_error(tmp_path, capsys):
    write_run(tmp_path / "0", 8, None)
    assert report.report([tmp_path], tmp_path, metric="pesq_wb") == [tmp_path / "sweep.csv", tmp_path / "sweep.md"]
    assert "0: failed, out of memory" in capsys.readouterr().out


def test_audio_that_cannot_be_compared_is_no_error(sweep):
    (sweep / "8/test/scores.csv").write_text("")
    (sweep / "12/test/enhanced/anna_1.wav").unlink()
    assert [path.name for path in report.report([sweep], sweep)] == ["sweep.csv", "sweep.md"]
    assert "there is no scores.csv that tells which files" in (sweep / "sweep.md").read_text()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ((), "task=report needs runs="),
        (("runs=[]",), "task=report needs runs="),
        (("runs=nowhere",), "nowhere: no such folder"),
        (("runs=EMPTY",), "no training or evaluation run in or below it"),
        (("runs=SWEEP", "metric=pesk"), "metric=pesk: no run has it; choose from pesq_wb"),
        (
            ("runs=SWEEP", "reference=13"),
            "reference=13: no finished configuration of this name; there are noisy, r=12, r=8",
        ),
        (("runs=SWEEP", "output=SWEEP/12/summary.json"), "summary.json: can't be written to"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_mistakes(sweep, tmp_path, overrides, message):
    (tmp_path / "empty").mkdir()
    places = {"SWEEP": str(sweep), "EMPTY": str(tmp_path / "empty")}
    for name, place in places.items():
        overrides = tuple(override.replace(name, place) for override in overrides)
    with pytest.raises(UserError, match=message):
        reported(f"run_dir={tmp_path}", *overrides)
