"""task=export as a user meets it: a file that is proved, or one line and no trace."""

import os
import re
import signal
import subprocess
import sys
from errno import ENOSPC
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import soundfile
import torch
from hydra import compose, initialize_config_dir

from gtcrn.errors import UserError
from gtcrn.export import formats, onnx
from gtcrn.export.metadata import Weights
from gtcrn.export.proof import Recording
from gtcrn.models import dtln, light_v3
from gtcrn.tasks.export import run

RUN = Path(__file__).parents[2] / "run.py"
SIZES = dict(lstm_size=8, layers=1, basis_size=12, n_fft=64, hop_length=16)


def save(path, build, **knobs):
    """A checkpoint of ours with random weights."""
    torch.manual_seed(0)
    weights = {f"enhancer.core.{key}": value for key, value in build(**knobs).core.state_dict().items()}
    record = {"model": {"build": f"{build.__module__}.build", "knobs": knobs}}
    torch.save({"gtcrn": record, "state_dict": weights}, path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Checkpoints, and recordings good and bad."""
    folder = tmp_path_factory.mktemp("export")
    save(folder / "dtln.ckpt", dtln.build, **SIZES)
    save(folder / "ahead.ckpt", light_v3.build, causal=False)
    soundfile.write(folder / "noise.wav", np.random.default_rng(0).normal(0, 0.1, 16000), 16000)
    soundfile.write(folder / "silence.wav", np.zeros(16000), 16000)
    (folder / "file").touch()
    return folder


def begin(folder, *overrides) -> subprocess.Popen:
    command = [sys.executable, str(RUN), "task=export", *overrides]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=pipe, stderr=pipe, text=True)


def test_a_file_and_its_card(folder):
    told = ("licence=CC0", "origin=made up", "name=mine", "output=out")
    process = begin(folder, "ckpt=dtln.ckpt", "format=onnx_wave", "audio=noise.wav", *told)
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0 and err == ""
    for line in (
        "1/3 writing mine_wave.onnx",
        "2/3 running it in onnxruntime over 1.0 s of noise.wav",
        "out/mine_wave.onnx",
        "size ",
        "largest difference ",
        "CPU time for a hop ",
        "4 ms, a hop of 1 ms included",
    ):
        assert line in out
    assert sorted(os.listdir(folder / "out")) == ["mine_wave.onnx", "mine_wave.onnx.MODEL_CARD.md"]
    metadata = onnxruntime.InferenceSession(folder / "out" / "mine_wave.onnx").get_modelmeta().custom_metadata_map
    assert (metadata["licence"], metadata["origin"]) == ("CC0", "made up")
    assert "| CC0 |" in (folder / "out" / "mine_wave.onnx.MODEL_CARD.md").read_text()


def test_an_interruption_leaves_no_file(folder, tmp_path):
    process = begin(folder, "ckpt=dtln.ckpt", "format=onnx_wave", "audio=noise.wav", f"output={tmp_path}")
    assert "1/3 writing" in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=600)
    assert process.returncode == 130 and err == "error: interrupted; nothing was written\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("overrides", "complaint"),
    [
        ("ckpt=dtln.ckpt format=onnx", "ckpt=dtln.ckpt: format=onnx: is for models of spectra, and DTLN takes samples"),
        ("ckpt=ahead.ckpt format=onnx", "ckpt=ahead.ckpt: this model cannot stream: layer 'core.encoder.2.ds' looks 1"),
        ("ckpt=dtln.ckpt format=tensorrt", "format=tensorrt: must be one of onnx, onnx_wave, sherpa_onnx,"),
        ("ckpt=noise.wav", "checkpoint noise.wav: a WAV file"),
        ("format=onnx", "task=export needs ckpt=…"),
        ("ckpt=dtln.ckpt format=onnx_wave audio=silence.wav", "audio=silence.wav: silent"),
        ("ckpt=dtln.ckpt format=onnx_wave audio=noise.wav output=file", "output=file: can't be written to"),
        ("ckpt=dtln.ckpt format=onnx_wave audio=noise.wav name=a/b", "name=a/b: a file's name, without folders"),
    ],
)
def test_mistakes_are_told_in_a_line_before_the_work(folder, monkeypatch, overrides, complaint):
    monkeypatch.chdir(folder)
    monkeypatch.setattr(onnx, "write", None)  # the work
    with initialize_config_dir(str(RUN.parent / "conf"), version_base="1.3"):
        cfg = compose("config", ["task=export", "run_dir=run", *overrides.split()])
    with pytest.raises(UserError, match=re.escape(complaint)) as told:
        run(cfg)
    assert "\n" not in str(told.value)


def export(folder):
    torch.manual_seed(0)
    noise = np.random.default_rng(0).normal(0, 0.1, 4000).astype(np.float32)
    enhancer = dtln.build(**SIZES).eval()
    return formats.export(enhancer, "onnx_wave", folder, "x", Weights("", ""), "", Recording(noise, "noise"))


@pytest.mark.parametrize(
    ("failure", "complaint"),
    [(OSError(ENOSPC, "No space left on device"), "No space left"), (UserError("the graph holds If"), "holds If")],
)
def test_failures_leave_what_was_there(tmp_path, monkeypatch, failure, complaint):
    def write(graph, path, metadata):
        path.write_text("half of it")
        raise failure

    monkeypatch.setattr(onnx, "write", write)
    (tmp_path / "x_wave.onnx").write_text("an earlier export")
    with pytest.raises(UserError, match=complaint):
        export(tmp_path)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["an earlier export"]


def test_a_wrong_file_is_refused(tmp_path, monkeypatch):
    def spoilt(enhancer, recurrence):
        enhancer = lean(enhancer, recurrence)
        for parameter in enhancer.parameters():
            parameter.mul_(1.01)
        return enhancer

    lean = formats.lean
    monkeypatch.setattr(formats, "lean", spoilt)
    with pytest.raises(UserError, match="format=onnx_wave: nothing was written, since the file is wrong: it differs"):
        export(tmp_path)
    assert list(tmp_path.iterdir()) == []
