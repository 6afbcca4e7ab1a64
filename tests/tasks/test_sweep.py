"""Multiruns as a user runs them: names of folders, failures, resuming, launchers, studies."""

import json
import subprocess
from pathlib import Path

import pytest
from fixtures.commands import compose, run_command
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import open_dict, read_write

from gtcrn.tasks.sweep import _comparable, _naming, _number_of_jobs, check_directions, study_name


def sweep(folder: Path, *overrides: str) -> subprocess.CompletedProcess:
    return run_command(folder, "-m", *overrides)


@pytest.fixture
def training(recordings):
    """Return overrides of a training of two steps on real pairs."""
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
        "metrics.validation=[si_sdr]",
        "metrics.workers=1",
        "monitor=val/si_sdr",
        "callbacks=none",
        "trainer.accelerator=cpu",
        "trainer.max_epochs=1",
        "logger=csv",
    ]


def jobs(folder: Path) -> dict[str, Path]:
    """Return {name: folder} of the jobs of the only sweep in `folder`."""
    (record,) = folder.glob("outputs/*/*/multirun.yaml")
    return {path.parent.name: path.parent for path in record.parent.glob("*/.hydra")}


@pytest.mark.slow
def test_failure_is_told_and_only_what_is_missing_runs_again(training, tmp_path):
    command = [*training, "evaluate=false", "model.width_mult=0.5,0.75,0.1"]
    result = sweep(tmp_path, *command)
    assert result.returncode == 1
    assert "Traceback" not in result.stdout + result.stderr
    done, error = jobs(tmp_path), "model.width_mult=0.1: must lie between 0.5 and 8"
    assert done.keys() == {"model.width_mult-0.5", "model.width_mult-0.75", "model.width_mult-0.1"}
    failed = done["model.width_mult-0.1"]
    assert (failed / "error.txt").read_text().startswith(error) and not (failed / "summary.json").exists()
    assert f"failed: {failed.relative_to(tmp_path)}: {error}" in result.stderr

    table = failed.parent / "sweep.csv"
    assert error in table.read_text()
    assert str(table.relative_to(tmp_path)) in result.stdout

    finished = done["model.width_mult-0.75"]
    record = {file: file.read_bytes() for file in (finished / ".hydra").iterdir()}
    (done["model.width_mult-0.5"] / "summary.json").unlink()  # as if cut off within its training
    again = sweep(tmp_path, *command, "sweep.resume=true")
    assert f"going on with {failed.parent.relative_to(tmp_path)}" in again.stdout
    assert jobs(tmp_path) == done
    assert again.stdout.count("finished before: ") == 1
    assert again.stdout.count("resuming ") == 1
    assert json.loads((done["model.width_mult-0.5"] / "summary.json").read_text())["steps"] == 2
    assert {file: file.read_bytes() for file in record} == record, "results keep the record of what they came of"

    pasted = run_command(tmp_path, "task=profile", f"ckpt={finished.relative_to(tmp_path)}")  # without quotes
    assert pasted.returncode == 0, pasted.stderr


@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
@pytest.mark.slow
def test_launchers(launcher, tmp_path):
    pytest.importorskip("hydra_plugins.hydra_" + launcher.split("_")[0] + "_launcher")
    result = sweep(tmp_path, "task=profile", "model=light_v3", "model.width_mult=0.5,0.1", f"hydra/launcher={launcher}")
    assert result.returncode == 1, result.stderr
    done = jobs(tmp_path)
    assert (done["model.width_mult-0.5"] / "profile.json").is_file()
    assert (done["model.width_mult-0.1"] / "error.txt").is_file()


def test_missing_plugin_is_named(tmp_path):
    result = sweep(tmp_path, "task=profile", "hydra.launcher._target_=hydra_plugins.nowhere.Launcher")
    assert result.returncode == 1
    assert 'pip install -e ".[sweep]"' in result.stderr and "Traceback" not in result.stderr


@pytest.mark.slow
def test_a_run_that_fails_at_once_leaves_nothing(tmp_path):
    result = run_command(tmp_path, "model=light_v3", "model.width_mult=0.1")
    assert result.returncode == 2 and "model.width_mult=0.1: must lie between" in result.stderr
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def parsed(*lines: str) -> list:
    return OverridesParser.create().parse_overrides(list(lines))


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("model.r=8,12", True),
        ("+model.rate=range(0.1,0.5,0.1)", True),
        ("model.width_mult=interval(0.5,2)", True),
        ("model=glob(*)", True),
        ("training/masks=none,specaugment", True),
        ("data.root=a/b,c/d", False),
        ("freeze=[encoder],[decoder]", False),
        ("run_name='a b','c d'", False),
        ("run_name='a=1','b=2'", False),
    ],
)
def test_folders_of_jobs_can_be_pasted(line, named):
    naming = _naming(parsed(line, "loss=sisdr"))
    assert (naming == ["hydra.sweep.subdir=${hydra.job.num}"]) != named


def test_jobs_of_a_grid_are_counted():
    assert _number_of_jobs(parsed("model.r=8,12", "loss=sisdr", "model.width_mult=range(0.5,1.25,0.25)")) == 6


def test_what_makes_no_difference_may_differ_in_a_continuation():
    swept = ["model.r=8,12", "loss=sisdr"]
    more = ["sweep.resume=true", "threads=2", "kernels=torch", "imports=[mine]", "logger=csv", "logger.project=x"]
    assert _comparable(swept) == _comparable([*swept, *more]) != _comparable([*swept, "seed=2"])


SEARCH = ["hparams_search=optuna", "model=light_v3", "model.r=range(4,24)"]


def searched(*overrides: str):
    typed = [override for override in overrides if not parsed(override)[0].is_sweep_override()]
    return compose(*typed, with_hydra=True)


def name_of_study(*overrides: str) -> str:
    config = searched(*overrides)
    with read_write(config), open_dict(config.hydra.sweeper):
        config.hydra.sweeper.study_name = "search"
    return study_name(config, parsed(*overrides))


def test_only_like_trials_share_a_study():
    name = name_of_study(*SEARCH)
    assert name == name_of_study(*SEARCH, "hydra.sweeper.n_trials=3", "logger=csv", "threads=2")
    others = ("data=noisy", "trainer.max_epochs=3", "model.width_mult=interval(0.5,1)", "monitor=val/loss", "seed=2")
    names = [name, *(name_of_study(*SEARCH, other) for other in others)]
    names.append(name_of_study(*SEARCH[:-1], "model.r=range(4,16)"))
    assert len(set(names)) == len(names)


def test_a_search_for_the_worst_is_refused():
    check_directions(searched(*SEARCH))
    with pytest.raises(SystemExit, match=r"is found with 'hydra.sweeper.direction=\[minimize\]'"):
        check_directions(searched(*SEARCH, "objectives=[best.val/loss]", "hydra.sweeper.direction=[maximize]"))
