"""ONNX files in integers sound like their float files, and say what they left in floats."""

import sys

import numpy as np
import pytest
import torch

from gtcrn.dsp.snr import measured_snr
from gtcrn.errors import UserError
from gtcrn.export.quantizers import onnx as quantizer
from gtcrn.profiling.cost import count_macs
from gtcrn.runtime.denoiser import Denoiser, open_onnx

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

FILES = {"gtcrn": "onnx", "dtln": "onnx_wave"}
SNR = {  # dB; with one scale for all channels of a weight DTLN has 23
    ("gtcrn", "int8"): 15,
    ("gtcrn", "dynamic"): 30,
    ("dtln", "dynamic"): 28,
}


@pytest.fixture(scope="module")
def files(exported, calibration, tmp_path_factory):
    """The float file of a system, and what it became."""
    folder, written = tmp_path_factory.mktemp("quantized"), {}

    def pair(name, quantize):
        source = exported(name, FILES[name])
        if (name, quantize) not in written:
            written[name, quantize] = folder / f"{name}_{quantize}.onnx"
            quantizer.quantize(source, written[name, quantize], quantize, calibration if quantize == "int8" else [])
        return source, written[name, quantize]

    return pair


@pytest.mark.parametrize(("name", "quantize"), SNR)
@pytest.mark.slow
def test_it_sounds_as_before(files, heard, name, quantize):
    expected, given = (Denoiser(path).process(heard) for path in files(name, quantize))
    assert SNR[name, quantize] < measured_snr(given, expected) < 60


def test_outside_nothing_changes(files, capfd):
    for name, quantize in SNR:
        source, target = files(name, quantize)
        before, after = open_onnx(source), open_onnx(target)
        told = [file.get_modelmeta().custom_metadata_map | {"sha256": None} for file in (before, after)]
        assert told[0] == told[1]
        for part in ("get_inputs", "get_outputs"):
            told = [[(node.name, node.type, node.shape) for node in getattr(file, part)()] for file in (before, after)]
            assert told[0] == told[1]
        quantizer.work(target)
    assert capfd.readouterr() == ("", "")


def test_weights_are_of_eight_bits(files):
    source, target = files("dtln", "dynamic")
    assert target.stat().st_size < 0.3 * source.stat().st_size
    tensors = {tensor.name: tensor for tensor in onnx.load(files("gtcrn", "int8")[1]).graph.initializer}
    layer = "enhancer.core.encoder.2.depth_conv.weight"
    codes, scales = (onnx.numpy_helper.to_array(tensors[f"{layer}_{part}"]) for part in ("quantized", "scale"))
    assert codes.dtype == np.uint8 and scales.shape == (16,)  # one for each output channel
    assert (np.abs(codes.astype(int) - 128).max(axis=(1, 2, 3)) >= 127).all()


def test_states_are_handed_on_within_a_recording(exported, heard):
    model = onnx.load(exported("gtcrn", "onnx"))
    (_, state, *_) = (tensor.name for tensor in model.graph.input)
    seen = quantizer._values(model, [state, f"next_{state}"], [heard, heard], stride=1)
    half = len(seen[state]) // 2
    assert half == len(heard) // 256 and np.abs(seen[state]).max() > 0.1
    np.testing.assert_array_equal(seen[state][1:half], seen[f"next_{state}"][: half - 1])
    assert not seen[state][[0, half]].any()
    np.testing.assert_array_equal(seen[state][:half], seen[state][half:])


def test_what_is_left_in_floats_is_told(files):
    source, target = files("gtcrn", "int8")
    work = quantizer.work(target)
    assert 0.4 < work.share < 0.55
    assert set(work.left) == {"Conv", "ConvTranspose", "GRU", "MatMul"}
    assert "no integer kernel" in work.left["GRU"] and "front" in work.left["Conv"]
    assert not any("chose" in why for why in work.left.values())
    assert work.operators["QGemm"] == 18 and work.operators["GRU"] == 8
    untouched = quantizer.work(source)
    assert untouched.share == 0 and untouched.floats == work.integers + work.floats
    assert all("not quantized" in why for why in untouched.left.values())
    work = quantizer.work(files("dtln", "dynamic")[1])
    assert work.share > 0.9 and set(work.left) == {"MatMul"} and "Fourier" in work.left["MatMul"]


def test_multiplications_are_those_of_the_model(files, system):
    enhancer = system("dtln")
    frame = enhancer.core_input(torch.zeros(1, 512))[:, :, :1]
    exact = sum(count_macs(enhancer.core, frame).values())
    assert quantizer.work(files("dtln", "dynamic")[1]).integers == exact + 2 * 256  # of 514 parts, not 512 samples


def test_multiplications_by_hand(tmp_path):
    shapes = {
        "grouped": [6, 2, 1, 3],
        "spreading": [6, 4, 1, 3],
        "input": [1, 15, 44],
        "recurrent": [1, 15, 5],
        "weight": [5, 7],
    }
    floats = np.random.default_rng(0)
    constants = [onnx.numpy_helper.from_array(floats.normal(size=s).astype(np.float32), n) for n, s in shapes.items()]
    constants.append(onnx.numpy_helper.from_array(np.array([1, 1, 44]), "flat"))
    constants.append(onnx.numpy_helper.from_array(np.array([1, 5]), "row"))
    node = onnx.helper.make_node
    nodes = [
        node("Conv", ["x", "grouped"], ["a"], group=2),  # (1, 6, 1, 5)
        node("ConvTranspose", ["a", "spreading"], ["b"], strides=[1, 2]),  # (1, 4, 1, 11)
        node("Reshape", ["b", "flat"], ["c"]),
        node("GRU", ["c", "input", "recurrent"], ["", "d"], hidden_size=5),
        node("Reshape", ["d", "row"], ["e"]),
        node("Gemm", ["e", "weight"], ["y"]),
    ]
    ends = [onnx.helper.make_tensor_value_info(n, 1, s) for n, s in (("x", [1, 4, 1, 7]), ("y", [1, 7]))]
    graph = onnx.helper.make_graph(nodes, "hand", ends[:1], ends[1:], constants)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, tmp_path / "hand.onnx")
    work = quantizer.work(tmp_path / "hand.onnx")
    assert work.floats == 6 * 2 * 3 * 5 + 6 * 4 * 3 * 5 + 15 * (44 + 5) + 5 * 7 and work.integers == 0


def test_layers_are_ranked_by_name(files, heard):
    errors = quantizer.tensor_errors(*files("gtcrn", "int8"), heard)
    assert list(errors.index)[:2] == ["encoder.0.conv", "encoder.1.conv"] and errors.index.is_unique
    assert errors["encoder.0.conv"] > 100  # in front of it nothing is rounded
    rest = errors[2:]
    assert 0 < rest.min() and np.isfinite(rest).all() and "decoder.4.conv" in rest


@pytest.mark.parametrize(
    ("quantize", "content", "complaint"),
    [
        ("dynamic", None, "no such file"),
        ("dynamic", b"no model", "damaged, or not an ONNX model"),
        ("int8", b"", "needs recordings"),
    ],
)
def test_what_is_of_no_use_is_told(tmp_path, quantize, content, complaint):
    source, target = tmp_path / "source.onnx", tmp_path / "target.onnx"
    if content is not None:
        source.write_bytes(content)
    with pytest.raises(UserError, match=complaint) as told:
        quantizer.quantize(source, target, quantize, [])
    assert "\n" not in str(told.value) and not target.exists()


def test_integers_are_not_rounded_again(files, tmp_path):
    with pytest.raises(UserError, match="in integers already"):
        quantizer.quantize(files("dtln", "dynamic")[1], tmp_path / "again.onnx", "dynamic", [])


def test_without_its_package(files, monkeypatch, tmp_path):
    source, _ = files("dtln", "dynamic")
    monkeypatch.setitem(sys.modules, "onnx", None)
    needed = r"pip install -e '\.\[export\]'"
    with pytest.raises(UserError, match=needed):
        quantizer.quantize(source, tmp_path / "target.onnx", "dynamic", [])
    with pytest.raises(UserError, match=needed):
        quantizer.work(source)
