"""Launchers and searches in environments of their own: `make test-plugins` runs this file, `make test` does not."""

import subprocess
from pathlib import Path

from fixtures.commands import start_command


def sweep(folder: Path, *overrides: str) -> subprocess.Popen:
    return start_command(folder, "-m", "model=light_v3", *overrides, stderr=subprocess.STDOUT)


def test_ray_runs_what_can_run_and_tells_what_failed(tmp_path):
    job = sweep(tmp_path, "task=profile", "model.width_mult=0.5,0.75,0.1", "hydra/launcher=ray")
    told, _ = job.communicate(timeout=600)
    assert job.returncode == 1 and "Traceback" not in told, told
    finished = {path.parent.name for path in tmp_path.glob("outputs/*/*/*/profile.json")}
    assert finished == {"model.width_mult-0.5", "model.width_mult-0.75"}, told
    (failure,) = tmp_path.glob("outputs/*/*/*/error.txt")
    assert failure.parent.name == "model.width_mult-0.1"
    assert "model.width_mult=0.1: must lie between 0.5 and 8" in failure.read_text()
    assert f"failed: {failure.parent.relative_to(tmp_path)}" in told


def test_optuna_shares_a_study_between_processes(tmp_path):
    import optuna

    training = ["data=demo", "data.train_files=8", "data.validation_files=2", "data.test_files=2", "data.num_workers=0"]
    training += ["metrics.validation=[si_sdr]", "metrics.test=[si_sdr]", "monitor=val/si_sdr", "metrics.workers=1"]
    training += ["trainer=cpu", "trainer.max_epochs=1", "evaluate=false", "logger=csv", "callbacks=none"]
    search = ["hparams_search=optuna", "objectives=[best.val/si_sdr,cost.mmacs_exact]", "hydra.sweeper.n_trials=2"]
    search += ["model.width_mult=interval(0.5,1)", "model.r=range(4,8)"]
    searches = [sweep(tmp_path, *training, *search) for _ in range(2)]
    for job in searches:
        told, _ = job.communicate(timeout=900)
        assert job.returncode == 0 and "Traceback" not in told, told
    storage = f"sqlite:///{tmp_path / 'outputs/optuna.db'}"
    (study,) = optuna.get_all_study_summaries(storage)
    trials = optuna.load_study(study_name=study.study_name, storage=storage).trials
    assert sorted(trial.number for trial in trials) == [0, 1, 2, 3]
    assert all(trial.state == optuna.trial.TrialState.COMPLETE and len(trial.values) == 2 for trial in trials)
