"""task=serve as a user runs it, from the command to Ctrl-C."""

import signal
import subprocess
import urllib.request
from pathlib import Path

import onnx
import pytest
from fixtures.commands import start_command
from onnx import TensorProto, helper

from gtcrn.errors import UserError
from gtcrn.web import serving


@pytest.fixture
def model(tmp_path) -> Path:
    """Return a wave model file whose output equals its input."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 160]) for name in ("input", "output"))
    graph = helper.make_graph([helper.make_node("Identity", ["input"], ["output"])], "same", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    helper.set_model_props(model, {"kind": "wave", "sample_rate": "16000", "hop_length": "160", "latency": "0"})
    onnx.save(model, tmp_path / "same.onnx")
    return tmp_path / "same.onnx"


def test_from_the_command_to_ctrl_c(tmp_path, model):
    if not serving.is_installed():
        pytest.skip("the page needs onnxruntime-web, which task=serve installs")
    overrides = ("task=serve", "browser=false", f"models={model.parent}", "port=0")
    with start_command(tmp_path, *overrides, stderr=subprocess.STDOUT) as process:
        line = process.stdout.readline()
        url = next(word for word in line.split() if word.startswith("http://127.0.0.1:"))
        assert "shows same" in line
        assert b"<title>" in urllib.request.urlopen(url).read()
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 0 and "Traceback" not in output


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("models=null",), "models=null: must be"),
        (("models=[nowhere.onnx]",), "nowhere.onnx: no such file"),
        (("models=same.onnx", "port=http"), "port=http: must be a whole number"),
    ],
)
def test_mistakes_are_told_in_a_line(tmp_path, model, perform, monkeypatch, overrides, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as error:
        perform("task=serve", "browser=false", *overrides)
    assert message in str(error.value) and "\n" not in str(error.value)
