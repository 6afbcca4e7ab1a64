"""The streaming runtime gives what PyTorch gives, however the stream is cut, without torch."""

import pickle
import subprocess
import sys

import numpy as np
import onnx
import pytest
import soundfile
import torch
from onnx import TensorProto, helper

import gtcrn
from gtcrn.errors import UserError
from gtcrn.export.runtime import Denoiser


@pytest.fixture(scope="module")
def published(references):
    return references / "gtcrn" / "gtcrn_simple.onnx"


@pytest.fixture(scope="module")
def noisy(recordings):
    return soundfile.read(recordings / "vctk_demand_mini" / "noisy" / "p287_001.wav", dtype="float32")[0]


def make(path, spectrum=(1, 129, 1, 2), state=(1, 129), metadata=None, element=TensorProto.FLOAT, twice=False):
    """A model file that passes spectra through and has a state."""
    nodes = [helper.make_node("Identity", [a], [b]) for a, b in (("spec", "out"), ("state.x", "next_state.x"))]
    inputs = [("spec", spectrum), ("state.x", state)]
    outputs = [("out", spectrum), ("next_state.x", state)]
    values = [
        [helper.make_tensor_value_info(name, element, shape) for name, shape in side] for side in (inputs, outputs)
    ]
    model = helper.make_model(
        helper.make_graph(nodes, "g", values[0], values[1][: 2 - twice]), opset_imports=[helper.make_opsetid("", 17)]
    )
    model.ir_version = 8
    helper.set_model_props(model, metadata or {})
    onnx.save(model, path)
    return path


def test_equals_pytorch(published, references, noisy):
    stream = Denoiser(published)
    assert (stream.sample_rate, stream.latency) == (16000, 256)
    streamed = stream.process(np.pad(noisy, (0, stream.latency + -len(noisy) % 256)))
    with torch.inference_mode():
        enhanced = gtcrn.load(references / "gtcrn" / "dns3_epoch96.tar")(torch.from_numpy(noisy)[None])[0][0].numpy()
    assert np.abs(streamed[stream.latency :][: len(noisy)] - enhanced).max() <= 1e-5


def test_blocks_of_any_size_and_a_pickle_in_between(published, noisy):
    stream = Denoiser(published)
    whole = stream.process(noisy)
    assert len(whole) == len(noisy) // 256 * 256 and whole.dtype == np.float32
    stream.reset()
    outputs = []
    for start, end in ((0, 1), (1, 1), (1, 256), (256, 257), (257, 1300), (1300, 8000), (8000, len(noisy))):
        outputs.append(stream.process(noisy[start:end]))
        stream = pickle.loads(pickle.dumps(stream))
    np.testing.assert_array_equal(np.concatenate(outputs), whole)


@pytest.mark.parametrize(("n_fft", "hop"), [(256, 128), (256, 64), (320, 160)])
def test_settings_come_from_the_file_first(tmp_path, noisy, n_fft, hop):
    shape = (1, n_fft // 2 + 1, 1, 2)
    metadata = {"sample_rate": "8000", "n_fft": str(n_fft), "hop_length": str(hop)}
    for stream in (
        Denoiser(make(tmp_path / "says.onnx", shape, metadata=metadata)),
        Denoiser(make(tmp_path / "silent.onnx", shape), 8000, n_fft, hop),
    ):
        assert (stream.sample_rate, stream.n_fft, stream.hop_length, stream.latency) == (8000, n_fft, hop, n_fft - hop)
        output = stream.process(noisy)
        np.testing.assert_allclose(output[stream.latency :], noisy[: len(output) - stream.latency], atol=1e-6)


def test_needs_no_torch(published):
    script = (
        "import sys, numpy\n"
        "from gtcrn.export.runtime import Denoiser\n"
        f"assert len(Denoiser({str(published)!r}).process(numpy.zeros(600))) == 512\n"
        "assert not {'torch', 'scipy', 'soxr', 'soundfile'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert not done.stderr


def test_files_that_do_not_fit_are_named(tmp_path, published):
    with pytest.raises(UserError, match="nowhere.onnx: no such file"):
        Denoiser(tmp_path / "nowhere.onnx")
    bad = tmp_path / "bad.onnx"
    for content in (b"", b"not a model at all", published.read_bytes()[:200_000]):
        bad.write_bytes(content)
        with pytest.raises(UserError, match="bad.onnx: damaged, or not an ONNX model: .*") as error:
            Denoiser(bad)
        assert "\n" not in str(error.value)
    for wrong, found in (
        (
            {"spectrum": (1, 2, 1, 129)},
            r"inputs are spec \[1, 2, 1, 129\], state.x \[1, 129\]; expected .* \[1, 129, 1, 2\]",
        ),
        ({"state": ("batch", 129)}, r"state.x \['batch', 129\]; expected .* fixed shapes"),
        ({"element": TensorProto.DOUBLE}, "all float"),
        ({"twice": True}, "outputs of the same shapes in the same order"),
    ):
        with pytest.raises(UserError, match=found):
            Denoiser(make(bad, **wrong), n_fft=256, hop_length=128)
    with pytest.raises(UserError, match=r"expected a spectrum \[1, 257, 1, 2\]"):
        Denoiser(make(bad))
    with pytest.raises(UserError, match="metadata should be whole numbers.*'many'"):
        Denoiser(make(bad, metadata={"n_fft": "many"}))
    with pytest.raises(UserError, match="hop_length=100 must divide n_fft=256"):
        Denoiser(make(bad), n_fft=256, hop_length=100)


def test_missing_onnxruntime_is_one_line(monkeypatch, published):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match=r"gtcrn_simple.onnx: .*onnxruntime: pip install -e '.\[export\]'"):
        Denoiser(published)
