"""A multirun as a user meets it: names, failures, going on, launchers."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

RUN = Path(__file__).parents[2] / "run.py"


def sweep(folder: Path, *overrides: str) -> subprocess.CompletedProcess:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(RUN), "-m", *overrides]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


@pytest.fixture
def training(recordings):
    """Two steps on real pairs."""
    return [
        "data=vctk_demand",
        f"data.root={recordings / 'vctk_demand_mini'}",
        "data.validation_files=[p287_005,p287_006]",
        "data.test=validation",
        "data.segment_seconds=1",
        "data.batch_size=2",
        "data.num_workers=0",
        "data.cache_dir=cache",
        "model=light_v3",
        "metrics.validation=[stoi,si_sdr]",
        "metrics.test=[stoi,si_sdr]",
        "monitor=val/si_sdr",
        "trainer.accelerator=cpu",
        "trainer.max_epochs=1",
        "logger=csv",
    ]


def jobs(folder: Path) -> dict[str, Path]:
    """{name: folder} of the only sweep in `folder`."""
    (record,) = folder.glob("outputs/*/*/multirun.yaml")
    return {path.parent.name: path.parent for path in record.parent.glob("*/.hydra")}


def test_failure_is_told_and_only_what_is_missing_runs_again(training, tmp_path):
    command = [*training, "evaluate=false", "model.width_mult=0.5,0.75,0.1"]
    result = sweep(tmp_path, *command)
    assert result.returncode == 1
    assert "Traceback" not in result.stdout + result.stderr
    done, error = jobs(tmp_path), "model.width_mult=0.1: must lie between 0.5 and 8"
    assert done.keys() == {"model.width_mult=0.5", "model.width_mult=0.75", "model.width_mult=0.1"}
    failed = done["model.width_mult=0.1"]
    assert (failed / "error.txt").read_text().startswith(error) and not (failed / "summary.json").exists()
    assert f"failed: {failed.relative_to(tmp_path)}: {error}" in result.stderr

    table = failed.parent / "sweep.csv"
    assert error in table.read_text()
    assert str(table.relative_to(tmp_path)) in result.stdout

    (done["model.width_mult=0.5"] / "summary.json").unlink()  # as if cut off within its training
    again = sweep(tmp_path, *command, "sweep.resume=true")
    assert f"going on with {failed.parent.relative_to(tmp_path)}" in again.stdout
    assert jobs(tmp_path) == done
    assert again.stdout.count("finished before: ") == 1
    assert again.stdout.count("resuming ") == 1
    assert json.loads((done["model.width_mult=0.5"] / "summary.json").read_text())["steps"] == 2


@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_launchers(launcher, tmp_path):
    pytest.importorskip("hydra_plugins.hydra_" + launcher.split("_")[0] + "_launcher")
    result = sweep(tmp_path, "task=profile", "model=light_v3", "model.width_mult=0.5,0.1", f"hydra/launcher={launcher}")
    assert result.returncode == 1, result.stderr
    done = jobs(tmp_path)
    assert (done["model.width_mult=0.5"] / "profile.json").is_file()
    assert (done["model.width_mult=0.1"] / "error.txt").is_file()


def test_missing_plugin_is_named(tmp_path):
    result = sweep(tmp_path, "task=profile", "hydra.launcher._target_=hydra_plugins.nowhere.Launcher")
    assert result.returncode == 1
    assert 'pip install -e ".[sweep]"' in result.stderr and "Traceback" not in result.stderr
