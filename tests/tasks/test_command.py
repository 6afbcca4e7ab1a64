"""run.py as a user runs it: each test is a process in a folder outside the repository."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
from fixtures.commands import run_command

from gtcrn.errors import UserError

pytestmark = pytest.mark.slow


def only(folder: Path, pattern: str) -> Path:
    (found,) = folder.glob(pattern)
    return found


def test_help(tmp_path):
    result = run_command(tmp_path, "--help")
    assert result.returncode == 0
    for word in ("task=evaluate", "gtcrn, light_v3", "gtcrn -m model=light_v3"):
        assert word in result.stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("model.widht_mult=1",), "widht_mult"),
        (("task=evalute",), "evaluate"),
        (("task=evaluate",), "needs ckpt=…"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_mistakes_end_a_command_with_a_line(tmp_path, overrides, message):
    result = run_command(tmp_path, *overrides)
    assert result.returncode == 2 and "Traceback" not in result.stdout
    assert result.stderr.startswith("error: ") and message in result.stderr and result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("task=evaluate", "ckpt=nowhere.tar"), "checkpoint nowhere.tar: no such file"),
        (("task=enhance", "ckpt=nowhere.tar"), "task=enhance needs input=…"),
        (("task=profile", "model.width_mult=0.1"), "model.width_mult=0.1: must lie between"),
        (("task=profile", "model.r=abc"), "model.r=abc: must be a whole number or null"),
        (("model=all",), "model=all is for task=profile: name one model"),
        (("seed=-1",), "seed=-1: must be a whole number from 0 to 4294967295"),
        (("data=vctk_demand",), "data.root"),
        (("data=vctk_demand", "data.root=nowhere"), "nowhere"),
        (("resume=nowhere.ckpt",), "resume=nowhere.ckpt: expected the checkpoints/last.ckpt of a run"),
        (("task=evaluate", "ckpt=nowhere.tar", "metrics.test_files=0"), "metrics.test_files=0: must be a whole number"),
        (("task=evaluate", "enhanced=a", "clean=b"), "enhanced=a: no such file or folder"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_mistakes_are_told_in_a_line(perform, overrides, message):
    with pytest.raises(UserError) as error:
        perform(*overrides)
    assert message in str(error.value) and "\n" not in str(error.value)


# shared/references/README.md: PESQ-wb, STOI, ESTOI, SI-SNR of the authors' code on the six mini pairs
NOISY = {"pesq_wb": 1.4128, "stoi": 0.8335, "estoi": 0.6110, "si_snr": 8.2012}
PUBLISHED = {
    "gtcrn/dns3_epoch87.tar": {"pesq_wb": 1.5652, "stoi": 0.8033, "estoi": 0.6177, "si_snr": 9.5065},
    "light_v3/best_model_078.tar": {"pesq_wb": 1.8937, "stoi": 0.8604, "estoi": 0.6843, "si_snr": 11.7786},
    "micro/best_model_dns3.tar": {"pesq_wb": 1.4662, "stoi": 0.8101, "estoi": 0.5930, "si_snr": 8.8232},
    "fastenhancer/fastenhancer_t_port.pth": {"pesq_wb": 1.7968, "stoi": 0.8342, "estoi": 0.6597, "si_snr": 11.12},
    "dtln/model.pth": {"pesq_wb": 1.6740, "stoi": 0.8388, "estoi": 0.6450, "si_snr": 11.4358},
}
TOLERANCE = {"pesq_wb": 0.005, "stoi": 0.001, "estoi": 0.001, "si_snr": 0.02}


@pytest.mark.parametrize("file", PUBLISHED)
def test_evaluate_gives_the_published_scores(tmp_path, references, recordings, file):
    result = run_command(
        tmp_path,
        "task=evaluate",
        f"ckpt={references / file}",
        "padding=none" if file.startswith("dtln") else "padding=reflect",
        "data=vctk_demand",
        f"data.root={recordings / 'vctk_demand_mini'}",
        "data.test=all",
        "metrics.test=[pesq_wb,stoi,estoi,si_snr]",
        "metrics.workers=1",
    )
    assert result.returncode == 0, result.stderr
    folder = only(tmp_path, "outputs/*/*_evaluate")
    means = json.loads((folder / "summary.json").read_text())
    for metric, tolerance in TOLERANCE.items():
        assert means[f"noisy_{metric}"] == pytest.approx(NOISY[metric], abs=tolerance)
        assert means[f"enhanced_{metric}"] == pytest.approx(PUBLISHED[file][metric], abs=tolerance)
    assert len(pd.read_csv(folder / "scores.csv")) == 6
    assert "P.862.2" in (folder / "scores.md").read_text()
    assert len(list(folder.glob("*.png"))) == 3


def test_evaluate_refuses_what_the_checkpoint_decides(tmp_path, references):
    ckpt = f"ckpt={references / 'gtcrn/dns3_epoch87.tar'}"
    result = run_command(tmp_path, "task=profile", ckpt, "model=light_v3")
    assert "holds GTCRN, but model=light_v3 is LightV3" in result.stderr
    result = run_command(tmp_path, "task=profile", ckpt, "model=gtcrn", "model.channels=8")
    assert "model.channels=8: has no effect" in result.stderr


def test_evaluate_finished_audio(tmp_path, recordings):
    pairs = recordings / "vctk_demand_mini"
    (tmp_path / "pairs.txt").write_text(f"{pairs / 'noisy/p287_001.wav'} {pairs / 'clean/p287_001.wav'}\n")
    scores = ("metrics.test=[stoi]", "metrics.workers=1")
    by_list = run_command(tmp_path, "task=evaluate", "pairs=pairs.txt", *scores, "run_dir=by_list")
    assert by_list.returncode == 0, by_list.stderr
    by_folder = run_command(
        tmp_path,
        "task=evaluate",
        f"enhanced={pairs / 'noisy'}",
        f"clean={pairs / 'clean'}",
        *scores,
        "run_dir=by_folder",
    )
    assert by_folder.returncode == 0, by_folder.stderr
    assert json.loads((tmp_path / "by_folder/summary.json").read_text())["enhanced_stoi"] == pytest.approx(
        NOISY["stoi"], abs=0.001
    )
    assert len(pd.read_csv(tmp_path / "by_list/scores.csv")) == 1


def test_training_leaves_everything_on_disk_and_resumes(tmp_path, recordings):
    """Real pairs, four files to train and two to validate; then resume=auto after an unfinished run."""
    overrides = (
        "data=vctk_demand",
        f"data.root={recordings / 'vctk_demand_mini'}",
        "data.validation_files=[p287_005,p287_006]",
        "data.test=validation",
        "data.segment_seconds=1",
        "data.batch_size=2",
        "data.num_workers=0",
        "data.cache_dir=cache",
        "model.width_mult=0.5",
        "metrics.validation=[stoi,si_sdr]",
        "metrics.test=[stoi,si_sdr]",
        "metrics.workers=1",
        "monitor=val/si_sdr",
        "trainer.log_every_n_steps=1",
        "trainer.accelerator=cpu",
        "scheduler.warmup_steps=2",
        "callbacks.clips.every=2",
        "callbacks.clips.count=1",
        "trainer.max_epochs=3",
    )
    result = run_command(tmp_path, *overrides)
    assert result.returncode == 0, result.stderr
    folder = only(tmp_path, "outputs/*/*_train_light_v3_sisdr_mag")
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["steps"] == 6 and summary["cost"]["parameters_trainable"] == 5024
    assert {"noisy_stoi", "enhanced_stoi", "enhanced_si_sdr"} <= summary["test"].keys()
    metrics = pd.read_csv(folder / "metrics.csv")
    for column in (
        "train/loss",
        "train/sisdr",
        "train/magnitude",
        "train/gradient_norm",
        "lr-AdamW",
        "val/stoi",
        "val/si_sdr",
        "val/loss",
    ):
        assert metrics[column].notna().any(), column
    assert (folder / "checkpoints/best.ckpt").is_file() and (folder / "checkpoints/last.ckpt").is_file()
    for epoch in ("epoch_000", "epoch_002"):
        assert (folder / "validation" / epoch / "p287_005.png").is_file()
        for role in ("noisy", "enhanced", "clean"):
            wave, rate = soundfile.read(folder / "validation" / epoch / f"p287_005_{role}.wav")
            assert rate == 16000 and np.abs(wave).max() > 0
    offline = only(folder, "wandb/offline-run-*/files")
    assert len(list(offline.glob("media/audio/clips/*.wav"))) == 6  # 3 roles, 2 epochs
    assert len(list(offline.glob("media/images/spectrograms/*.png"))) == 2

    # as if the machine had died before the summary: the same command goes on where it stopped
    (folder / "summary.json").unlink()
    resumed = run_command(tmp_path, *overrides, "resume=auto")
    assert resumed.returncode == 0, resumed.stderr
    assert f"resuming {folder.relative_to(tmp_path) / 'checkpoints/last.ckpt'}" in resumed.stdout
    assert json.loads((folder / "summary.json").read_text())["steps"] == 6
    assert len(pd.read_csv(folder / "metrics.csv")) >= len(metrics)
    anew = run_command(tmp_path, *overrides, "resume=auto", "trainer.max_epochs=1", "evaluate=false")
    assert "no unfinished run of this configuration" in anew.stdout
