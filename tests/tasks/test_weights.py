"""Weights by name in the tasks: their table, where `ckpt=` takes them, and what stands where none are named."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from fixtures.weights import stated

import gtcrn
from gtcrn.errors import UserError
from gtcrn.models import light_v3
from gtcrn.models.pretrained import CORE_PREFIX, RECORD
from gtcrn.runtime import Denoiser
from gtcrn.tasks import serve
from gtcrn.weights import entries


@pytest.fixture
def packaged(tmp_path, references, register):
    """Put an exported file into the package, under a name."""
    content = (references / "gtcrn/gtcrn_simple.onnx").read_bytes()
    register(ours={"file": "ours.onnx", **stated(content)})
    (tmp_path / "package" / "ours.onnx").write_bytes(content)
    soundfile.write(tmp_path / "in.wav", np.random.default_rng(0).normal(0, 0.1, 4000), 16000)


def test_the_table(capsys, perform, register):
    measured = {"vctk_demand_test": {"pesq_wb": 2.8704, "stoi": 0.9403, "si_snr": 18.796}}
    register(
        closed={"url": "https://somewhere/a.pth", **stated(bytes(737_323)), "measured": measured, "padding": "reflect"},
        open={"url": "https://somewhere/b.pth", "published": "PESQ-wb 2.99 (the paper)"},
    )
    perform("task=weights")
    closed, listed = (line.split() for line in capsys.readouterr().out.splitlines() if "A system" in line)
    assert closed == ["closed", "A", "system", "speech", "737", "kB", "2.87", "0.940", "18.80", "no"]
    assert listed == ["open", "A", "system", "speech", "–", "–", "–", "–", "no", "checksum"]


def test_the_table_tells_all_that_is_known(capsys, perform, references, monkeypatch):
    monkeypatch.setenv("GTCRN_WEIGHTS", str(references))
    perform("task=weights")
    shown = capsys.readouterr().out
    for entry in entries().values():
        assert all(text in shown for text in (f"\n{entry.name}\n", entry.licence, entry.url or "no address is known"))
    assert "measured   PESQ-wb 2.15, STOI 0.877, ESTOI 0.726, SI-SNR dB 12.93 on six pairs of p287" in shown


def test_a_name_stands_for_a_file_of_the_package(tmp_path, perform, packaged):
    perform("task=enhance", "ckpt=ours", f"input={tmp_path}/in.wav", f"output={tmp_path}/out.wav")
    assert soundfile.info(tmp_path / "out.wav").frames == 4000
    assert Denoiser("ours").hop_length == 256


def test_a_file_is_enhanced_where_no_weights_are_named(tmp_path, perform, caplog):
    noise = np.random.default_rng(0).normal(0, 0.1, 16000)
    soundfile.write(tmp_path / "in.wav", noise, 16000)
    with caplog.at_level("INFO"):
        perform("task=enhance", f"input={tmp_path}/in.wav", f"output={tmp_path}/out.wav")
    enhanced, _ = soundfile.read(tmp_path / "out.wav")
    assert np.std(enhanced[4000:]) < 0.3 * np.std(noise)
    assert "by ckpt=light-v3-real" in caplog.text


@pytest.mark.parametrize("task", ["enhance", "live", "export"])
def test_none_is_never_a_name(tmp_path, perform, packaged, task):
    files = [] if task != "enhance" else [f"input={tmp_path}/in.wav", f"output={tmp_path}/out.wav"]
    with pytest.raises(UserError, match="^ckpt=null: must be text$"):
        perform(f"task={task}", "ckpt=null", *files)
    with pytest.raises(UserError, match="^ckpt= is empty, perhaps by an unset variable"):
        perform(f"task={task}", "ckpt=", *files)


def test_weights_alone_are_what_a_run_has_learnt(tmp_path, perform):
    """They load as the run's checkpoint does, and nothing else of the run is in the file."""
    model = light_v3.build(width_mult=0.5)
    state = {CORE_PREFIX + key: value for key, value in model.core.state_dict().items()}
    record = {"model": {"build": "gtcrn.models.light_v3.build", "knobs": {"width_mult": 0.5}}, "input_level": -25.0}
    run = {RECORD: record, "state_dict": state | {"discriminator.weight": torch.ones(3)}, "optimizer_states": [1]}
    torch.save(run | {"callbacks": {"dirpath": "/home/somebody"}}, tmp_path / "last.ckpt")
    perform("task=weights", f"ckpt={tmp_path}/last.ckpt", f"output={tmp_path}/mine.ckpt")
    alone = torch.load(tmp_path / "mine.ckpt", weights_only=True)
    assert alone.keys() == {RECORD, "state_dict"} and alone["state_dict"].keys() == state.keys()
    loaded = gtcrn.load(tmp_path / "mine.ckpt")
    assert loaded.input_level == -25
    torch.testing.assert_close(loaded.core.state_dict(), model.core.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("output=a.ckpt",), "task=weights needs ckpt= and output=, .* or neither"),
        (("ckpt=gtcrn-dns3",), "task=weights needs ckpt= and output=, .* or neither"),
        (("ckpt=gtcrn-dns3", "output=a.ckpt"), "ckpt=gtcrn-dns3: holds weights as GTCRN's authors publish them"),
        (("ckpt=light-v3-real", "output=a"), "output=a: a checkpoint's name ends in .ckpt"),
    ],
)
def test_weights_alone_are_refused_in_a_line(perform, references, monkeypatch, overrides, message):
    monkeypatch.setenv("GTCRN_WEIGHTS", str(references))
    with pytest.raises(UserError, match=f"^{message}"):
        perform("task=weights", *overrides)


def test_weights_for_pytorch_are_exported_where_a_file_is_served(tmp_path, command, register, monkeypatch):
    """Neither the export nor the demo's speech for its proof is made, which would take long."""

    def write(export, folder):
        asked.append((export.stem, export.kind, export.weights.licence))
        return SimpleNamespace(path=folder / "mine_wave.onnx")

    asked = []
    monkeypatch.setattr(serve.Export, "write", write)
    monkeypatch.setattr(serve.proof, "recording", lambda *_: None)
    register()
    weights = light_v3.build(width_mult=0.5).core.state_dict()
    record = {"model": {"build": "gtcrn.models.light_v3.build", "knobs": {"width_mult": 0.5}}}
    file = tmp_path / "package" / "mine.ckpt"
    torch.save({RECORD: record, "state_dict": {CORE_PREFIX + key: value for key, value in weights.items()}}, file)
    register(mine={"file": file.name, **stated(file.read_bytes())})
    with pytest.raises(
        UserError, match="^mine: weights for PyTorch; .*: gtcrn task=export ckpt=mine format=onnx_wave$"
    ):
        Denoiser("mine")
    for given in ("mine", str(file)):
        assert serve.wave_file(command("task=serve"), given, tmp_path) == tmp_path / "mine_wave.onnx"
    assert asked == [("mine", "wave", "MIT")] * 2
    assert serve.wave_file(command("task=serve"), "a.onnx", tmp_path) == Path("a.onnx")
