"""Damage to exported files is told before a runtime sees it; others' files are tried in a process of their own."""

import json
import re
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import gtcrn
from gtcrn.errors import UserError
from gtcrn.export.writers.onnx import write_metadata
from gtcrn.runtime import integrity
from gtcrn.runtime.denoiser import Denoiser, open_onnx

HOP = 16
SAID = {"kind": "wave", "sample_rate": "16000", "n_fft": "32", "hop_length": str(HOP), "latency": "0", "states": "[]"}


@pytest.fixture
def plain(tmp_path):
    """An ONNX file of somebody else: a gain, and the hop before as a state."""
    gain = helper.make_tensor("gain", TensorProto.FLOAT, [1, HOP], np.full(HOP, 0.5, np.float32))
    nodes = [
        helper.make_node("Mul", ["input", "gain"], ["output"]),
        helper.make_node("Identity", ["input"], ["next_state.x"]),
    ]
    sides = ("input", "state.x"), ("output", "next_state.x")
    inputs, outputs = (
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, HOP]) for name in side] for side in sides
    )
    graph = helper.make_graph(nodes, "g", inputs, outputs, [gain])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


@pytest.fixture
def trials(monkeypatch):
    """The files that are tried in a process of their own."""
    tried = []
    monkeypatch.setattr("gtcrn.runtime.denoiser.require_harmless", tried.append)
    return tried


def test_a_sealed_file_is_opened_without_a_trial(plain, trials):
    open_onnx(plain)
    assert trials == [plain]
    write_metadata(plain, SAID)
    assert Denoiser(plain).process(np.ones(HOP, np.float32))[0] == 0.5
    assert trials == [plain]
    write_metadata(plain, SAID | {"licence": "MIT"})  # again, over what it said
    assert open_onnx(plain).get_modelmeta().custom_metadata_map["licence"] == "MIT"


def test_every_flipped_bit_of_a_sealed_file_is_noticed(plain, trials):
    write_metadata(plain, SAID)
    content = plain.read_bytes()
    seal = range(*integrity._ONNX_SEAL.search(content).span())
    for place in range(0, len(content), 7):
        changed = bytearray(content)
        changed[place] ^= 4
        plain.write_bytes(changed)
        if place in seal and not integrity._ONNX_SEAL.search(changed):  # none is left, and the file is tried
            continue
        with pytest.raises(UserError, match="its SHA-256 is another"):
            integrity.is_sealed_onnx(plain)


def test_parts_of_a_tflite(tmp_path):
    path, content = tmp_path / "model.tflite", b"flatbuffer " + integrity.MARK
    integrity.write_parts(path, content, SAID, {"erb.npy": b"matrix"})
    assert integrity.read_parts(path) == (content, SAID, {"erb.npy": b"matrix"}, True)
    whole = path.read_bytes()
    for place in (0, len(content) + 60):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(UserError, match="damaged"):
            integrity.read_parts(path)
    for length in (len(content), len(content) + 30, len(whole) - 3):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match="damaged or cut off"):
            integrity.read_parts(path)
    path.write_bytes(b"another's flatbuffer")
    assert integrity.read_parts(path) == (b"another's flatbuffer", {}, {}, False)


@pytest.mark.parametrize("metadata", ["[]", "3", "{", '{"sha256": 5}'])
def test_metadata_of_a_tflite_that_are_none(tmp_path, metadata):
    path = tmp_path / "model.tflite"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata.json", metadata)
    with pytest.raises(UserError, match="damaged"):
        integrity.read_parts(path)


def test_a_folder_is_sealed_with_its_metadata(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(name.encode())
    integrity.seal_folder(tmp_path, SAID, ("a", "b"))
    assert integrity.read_folder(tmp_path, ("a", "b")) == SAID
    lying = json.loads((tmp_path / integrity.METADATA).read_text()) | {"sample_rate": "48000"}
    (tmp_path / integrity.METADATA).write_text(json.dumps(lying))
    with pytest.raises(UserError, match="its SHA-256 is another"):
        integrity.read_folder(tmp_path, ("a", "b"))


@pytest.mark.parametrize(
    ("does", "said"),
    [
        ("import os; os.abort()", "the runtime crashed on it in a process of its own"),
        ("import time; time.sleep(600)", "takes more than 5 s to open"),
        ("while True: pass", "takes more than 2 s of CPU time to open"),
        ("import os; os.kill(os.getpid(), 9)", "ended from outside, most often for want of memory"),
        ("bytearray(10**11)", "model.onnx: damaged, or not a model that runs here: MemoryError"),
        ("raise UserError('x: not its kind')", "x: not its kind"),
    ],
    ids=["crash", "hang", "work", "kill", "memory", "refusal"],
)
def test_what_a_trial_tells(tmp_path, monkeypatch, does, said):
    """Of a runtime that does this with the file."""
    path = tmp_path / "model.onnx"
    path.write_bytes(does.encode())
    trial = integrity._TRIAL.replace("    denoiser.try_out(Path(sys.argv[1]))", f"    {does}")
    trial = trial.replace("from gtcrn.runtime import denoiser", "")
    monkeypatch.setattr(integrity, "_TRIAL", trial)
    monkeypatch.setattr(integrity, "_TIMEOUT", 5.0 if "sleep" in does else 300.0)
    monkeypatch.setattr(integrity, "_CPU_LIMIT", 2 if "while" in does else 20)
    with pytest.raises(UserError) as error:
        integrity.require_harmless(path)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_a_trial_is_made_once(plain, monkeypatch):
    monkeypatch.setattr(integrity, "_TRIAL", "import sys; open(sys.argv[1] + '.tried', 'a').write('x')")
    for _ in range(3):
        open_onnx(plain)
    assert plain.with_name("model.onnx.tried").read_text() == "x"


@pytest.mark.parametrize(
    ("lie", "said"),
    [
        ({"sample_rate": str(10**12)}, "sample_rate=1000000000000: must lie between 1000 and 768000"),
        ({"hop_length": "0"}, "hop_length=0: must lie"),
        ({"n_fft": "1e9"}, "n_fft=1e9: must be a whole number"),
        ({"n_fft": "9" * 5000}, "must be a whole number"),
        ({"latency": "-5"}, "latency=-5: must lie"),
        ({"sample_rate": ""}, "sample_rate=: must be a whole number"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, dict) else "",
)
def test_metadata_that_lie_are_named(plain, trials, lie, said):
    write_metadata(plain, SAID | lie)
    with pytest.raises(UserError) as error:
        Denoiser(plain)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_one_module_reads_the_archive_at_the_end_of_a_file():
    """But for .pt2, which are archives as a whole."""
    package = Path(gtcrn.__file__).parent
    rooms = ("export", "profiling", "quantization", "runtime", "tasks", "web")
    files = [path for room in rooms for path in (package / room).rglob("*.py")]
    readers = {path.name for path in files if re.search(r"^\s*(import|from) zipfile", path.read_text(), re.MULTILINE)}
    assert readers == {"integrity.py", "pt2.py"}
