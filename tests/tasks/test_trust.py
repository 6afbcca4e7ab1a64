"""A model outside this framework is trained and tested without trust=true, but read back only with it."""

import importlib
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
from fixtures.commands import compose

from gtcrn.errors import UserError

MODEL = ["model=dtln", "model.lstm_size=8", "model.basis_size=12", "model.n_fft=64", "model.hop_length=32"]
SMALL = ["data.train_files=2", "data.validation_files=1", "data.test_files=1", "data.num_workers=0", "logger=csv"]
SCORES = ["metrics.validation=[si_sdr]", "metrics.test=[si_sdr]", "monitor=val/si_sdr", "metrics.workers=1"]


def run(folder: Path, task: str, *overrides: str) -> None:
    cfg = compose(f"task={task}", f"run_dir='{folder}'", "run_name=test", *overrides)
    importlib.import_module(f"gtcrn.tasks.{task}").run(cfg)


@pytest.mark.slow
def test_a_model_outside_the_framework(command, tmp_path, monkeypatch, caplog):
    """This is one test because the checkpoint must be trained before it can be read back."""
    (tmp_path / "my_se.py").write_text("from gtcrn.models.dtln import build as tiny\n")
    monkeypatch.syspath_prepend(tmp_path)
    theirs = [*MODEL, "model._target_=my_se.tiny"]
    run(tmp_path / "run", "train", *theirs, "trainer.max_epochs=1", *SMALL, *SCORES)
    assert "my_se.tiny is code outside this framework" in caplog.text and "needs trust=true" in caplog.text
    scored = json.loads((tmp_path / "run" / "summary.json").read_text())["test"]  # by what it had written itself
    assert np.isfinite(scored["enhanced_si_sdr"])

    noisy, enhanced = tmp_path / "noisy.wav", tmp_path / "enhanced.wav"
    soundfile.write(noisy, np.random.default_rng(0).normal(0, 0.1, 8000), 16000)
    sounddevice = SimpleNamespace(PortAudioError=OSError)
    monkeypatch.setattr("gtcrn.tasks.live.import_sounddevice", lambda: sounddevice)
    ckpt = f"'{tmp_path / 'run' / 'checkpoints' / 'best.ckpt'}'"
    tasks = {
        "evaluate": [f"ckpt={ckpt}"],
        "enhance": [f"ckpt={ckpt}", f"input='{noisy}'", f"output='{enhanced}'"],
        "export": [f"ckpt={ckpt}"],
        "live": [f"ckpt={ckpt}"],
        "train": [f"init_from={ckpt}", "model=dtln", "logger=csv"],
    }
    monkeypatch.delitem(sys.modules, "my_se")
    for task, overrides in tasks.items():
        with pytest.raises(UserError, match="my_se.tiny, code outside this framework.*set trust=true"):
            run(tmp_path / "other", task, *overrides)
    with pytest.raises(UserError, match="my_se.tiny, code outside this framework.*set trust=true"):
        importlib.import_module("gtcrn.tasks.profile").run(command("task=profile", f"ckpt={ckpt}"))
    assert "my_se" not in sys.modules

    run(tmp_path / "other", "enhance", *tasks["enhance"], "trust=true")
    assert soundfile.info(enhanced).frames == 8000
    assert "trust=true: importing my_se.tiny" in caplog.text
    monkeypatch.delitem(sys.modules, "my_se")
    run(tmp_path / "other", "enhance", *tasks["enhance"], *theirs[:1], theirs[-1])  # who names the model, trusts it
    assert "my_se" in sys.modules
