"""The streaming runtime gives what PyTorch gives, however the stream is cut, without torch."""

import json
import pickle
import subprocess
import sys
import tracemalloc
import zipfile
from concurrent.futures import ThreadPoolExecutor

import flatbuffers
import numpy as np
import onnx
import pytest
import soundfile
import torch
from ai_edge_litert import schema_py_generated as tflite
from onnx import TensorProto, helper

import gtcrn
from gtcrn.data import audio
from gtcrn.errors import UserError
from gtcrn.runtime.denoiser import Denoiser
from gtcrn.runtime.framing import LOUDEST, STFTStep, Stream
from gtcrn.runtime.resampling import Resampled

SPECTRUM, WAVE = (1, 129, 1, 2), (1, 128)
FORMATS = ("onnx", "tflite")


@pytest.fixture(scope="module")
def published(references):
    return references / "gtcrn" / "gtcrn_simple.onnx"


@pytest.fixture(scope="module")
def noisy(recordings):
    return soundfile.read(recordings / "vctk_demand_mini" / "noisy" / "p287_001.wav", dtype="float32")[0]


@pytest.fixture(autouse=True)
def without_trials(monkeypatch):
    """Each file here would be tried in a process of its own first, which test_intact.py looks at."""
    monkeypatch.setattr("gtcrn.runtime.denoiser.require_harmless", lambda path: None)


def make_onnx(path, shape=SPECTRUM, state=None, metadata=None, element=TensorProto.FLOAT, twice=False):
    """A model file that adds the hop before to every hop: state -> input + state, input."""
    nodes = [
        helper.make_node("Add", ["input", "state.x"], ["output"]),
        helper.make_node("Identity", ["input"], ["next_state.x"]),
    ]
    sides = [[("input", shape), ("state.x", state or shape)], [("output", shape), ("next_state.x", shape)]]
    inputs, outputs = ([helper.make_tensor_value_info(name, element, of) for name, of in side] for side in sides)
    graph = helper.make_graph(nodes, "g", inputs, outputs[: 2 - twice])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    helper.set_model_props(model, metadata or {})
    onnx.save(model, path)
    return path


def make_tflite(path, shape=SPECTRUM, metadata=None, twice=False):
    """The same for LiteRT, which has no copy of an input: next_state = input + 0."""
    model, graph = tflite.ModelT(), tflite.SubGraphT()
    model.version, model.subgraphs = 3, [graph]
    model.buffers = [tflite.BufferT(), tflite.BufferT()]
    model.buffers[1].data = np.zeros(4, np.uint8)
    code = tflite.OperatorCodeT()
    code.builtinCode = tflite.BuiltinOperator.ADD
    model.operatorCodes = [code]
    graph.tensors = []
    for name, of in (("input", shape), ("state", shape), ("zero", (1,)), ("output", shape), ("next_state", shape)):
        tensor = tflite.TensorT()
        tensor.name, tensor.shape, tensor.buffer = name, list(of), int(name == "zero")
        graph.tensors.append(tensor)
    graph.inputs, graph.outputs, graph.operators = [0, 1], [3, 4][: 2 - twice], []
    for inputs, output in (([0, 1], 3), ([0, 2], 4)):
        operator = tflite.OperatorT()
        operator.inputs, operator.outputs = inputs, [output]
        operator.builtinOptionsType, operator.builtinOptions = tflite.BuiltinOptions.AddOptions, tflite.AddOptionsT()
        graph.operators.append(operator)
    builder = flatbuffers.Builder()
    builder.Finish(model.Pack(builder), b"TFL3")
    path.write_bytes(builder.Output())
    if metadata:
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("metadata.json", json.dumps(metadata))
    return path


def make(folder, name, *arguments, **keywords):
    return {"onnx": make_onnx, "tflite": make_tflite}[name](folder / f"model.{name}", *arguments, **keywords)


def test_equals_pytorch(published, references, noisy):
    stream = Denoiser(published)
    assert (stream.sample_rate, stream.hop_length, stream.latency) == (16000, 256, 256)
    streamed = stream.process(np.pad(noisy, (0, stream.latency + -len(noisy) % 256)))
    with torch.inference_mode():
        enhanced = gtcrn.load(references / "gtcrn" / "dns3_epoch96.tar")(torch.from_numpy(noisy)[None])[0][0].numpy()
    assert np.abs(streamed[stream.latency :][: len(noisy)] - enhanced).max() <= 1e-5


def test_the_file_of_ulunas_authors_runs_under_its_window(references, noisy):
    """It does not say which: under the square root of it, the output is 0.24 from this."""
    stream = Denoiser(references / "ulunas" / "ulunas_stream_simple.onnx")
    streamed = stream.process(noisy[: len(noisy) // 256 * 256])
    with torch.inference_mode():
        enhancer = gtcrn.load(references / "ulunas" / "model_trained_on_dns3.tar")
        expected = enhancer(torch.from_numpy(noisy[: len(streamed)])[None], enhancer.initial_state(1))[0][0].numpy()
    assert np.abs(streamed - expected).max() <= 1e-3


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(("shape", "latency"), [(SPECTRUM, 128), (WAVE, 0), (WAVE, 60)])
def test_both_formats_and_both_kinds(tmp_path, noisy, name, shape, latency):
    metadata = {"sample_rate": "8000", "n_fft": "256", "hop_length": "128", "latency": str(latency), "system": "Echo"}
    stream = Denoiser(make(tmp_path, name, shape, metadata=metadata))
    assert (stream.sample_rate, stream.hop_length, stream.latency) == (8000, 128, latency)
    output = stream.process(noisy)
    delay = 0 if shape == WAVE else latency
    expected = noisy + np.pad(noisy, (128, 0))[: len(noisy)]
    np.testing.assert_allclose(output[delay:], expected[: len(output) - delay], atol=1e-6)
    assert len(output) == len(noisy) // 128 * 128 and output.dtype == np.float32


@pytest.mark.parametrize("name", FORMATS)
def test_a_file_that_says_nothing(tmp_path, name):
    stream = Denoiser(make(tmp_path, name, (1, 33, 1, 2)), 8000, n_fft=64, hop_length=16)
    assert (stream.sample_rate, stream.hop_length, stream.latency) == (8000, 16, 48)
    stream = Denoiser(make(tmp_path, name, (1, 80)), 8000)
    assert (stream.sample_rate, stream.hop_length, stream.latency) == (8000, 80, 0)


def in_blocks(stream, wave, lengths):
    ends = np.cumsum(lengths)
    assert ends[-1] == len(wave)
    return [stream.process(block) for block in np.split(wave, ends[:-1])]


def test_blocks_of_any_size(published, noisy):
    stream, wave = Denoiser(published), noisy[:20000]
    whole = stream.process(wave)
    assert len(whole) == len(wave) // 256 * 256
    stream.reset()
    outputs = in_blocks(stream, wave.astype(np.float64), (1, 0, 255, 1, 1043, 6700, 12000))
    np.testing.assert_array_equal(np.concatenate(outputs), whole)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(stream)).process(wave), whole)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(
    ("block_length", "lengths", "more"),
    [(1, (1, 7, 0, 300, 128, 564), 127), (100, (100, 300, 600), 124), (128, (128, 256, 616 - 104), 0)],
)
def test_as_many_samples_out_as_in(tmp_path, noisy, name, block_length, lengths, more):
    denoiser, wave = Denoiser(make(tmp_path, name), n_fft=256, hop_length=128), noisy[: sum(lengths)]
    stream = denoiser.stream(block_length)
    assert stream.latency == denoiser.latency + more
    outputs = in_blocks(stream, wave, lengths)
    assert tuple(map(len, outputs)) == lengths
    output = np.concatenate(outputs)
    np.testing.assert_array_equal(output[:more], np.zeros(more))
    np.testing.assert_array_equal(output[more:], denoiser.process(wave)[: len(wave) - more])
    stream.reset()
    np.testing.assert_array_equal(np.concatenate(in_blocks(stream, wave, lengths)), output)


@pytest.mark.parametrize("name", FORMATS)
def test_streams_are_independent(tmp_path, noisy, name):
    denoiser = Denoiser(make(tmp_path, name), n_fft=256, hop_length=128)
    waves = [np.roll(noisy, 1000 * i) for i in range(4)]
    expected = []
    for wave in waves:
        denoiser.reset()
        expected.append(denoiser.process(wave))
    streams = [denoiser.stream() for _ in waves]

    def process(stream, wave):
        return np.concatenate([stream.process(block) for block in np.array_split(wave, 50)])

    with ThreadPoolExecutor(4) as pool:
        for output, wanted in zip(pool.map(process, streams, waves), expected):
            np.testing.assert_array_equal(output, wanted)


@pytest.mark.parametrize("name", FORMATS)
def test_the_limit_of_attenuation_goes_with_it(tmp_path, noisy, name):
    path = make(tmp_path, name)
    denoiser = Denoiser(path, n_fft=256, hop_length=128, attenuation_limit_db=6)
    loud = Denoiser(path, n_fft=256, hop_length=128).process(noisy)
    late = np.pad(noisy, (128, 0))[: len(loud)]
    expected = 10 ** (-6 / 20) * late + (1 - 10 ** (-6 / 20)) * loud
    for stream in (denoiser, denoiser.stream(), pickle.loads(pickle.dumps(denoiser))):
        np.testing.assert_allclose(stream.process(noisy), expected, atol=1e-6)
    denoiser.attenuation_limit_db = None
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(denoiser)).process(noisy), loud)
    with pytest.raises(UserError, match="attenuation_limit_db=-1: must be"):
        Denoiser(path, n_fft=256, hop_length=128, attenuation_limit_db=-1)


@pytest.mark.parametrize("name", FORMATS)
def test_memory_does_not_grow(tmp_path, name):
    stream = Denoiser(make(tmp_path, name), n_fft=256, hop_length=128).stream(block_length=1)
    block = np.random.default_rng(0).standard_normal(160)

    def after(blocks):
        for _ in range(blocks):
            stream.process(block)
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    before = after(200)
    grown = after(4000) - before
    tracemalloc.stop()
    assert grown < 4000  # bytes: less than one for every block


@pytest.mark.parametrize("name", FORMATS)
def test_needs_no_torch(tmp_path, name):
    path = make(tmp_path, name)
    script = (
        "import sys, numpy\n"
        "from gtcrn.runtime import Denoiser\n"
        f"assert len(Denoiser({str(path)!r}, n_fft=256, hop_length=128).process(numpy.zeros(600))) == 512\n"
        "assert not {'torch', 'scipy', 'soxr', 'soundfile', 'onnx', 'yaml', 'requests'} & set(sys.modules)\n"
        "print(*sorted(name for name in sys.modules if name.startswith('gtcrn')))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [
        "gtcrn",
        "gtcrn.dsp",
        "gtcrn.dsp.attenuation",
        "gtcrn.dsp.window",
        "gtcrn.errors",
        "gtcrn.files",
        "gtcrn.runtime",
        "gtcrn.runtime.denoiser",
        "gtcrn.runtime.facts",
        "gtcrn.runtime.framing",
        "gtcrn.runtime.integrity",
        "gtcrn.weights",
        "gtcrn.weights.files",
        "gtcrn.weights.registry",
    ]


def test_samples_that_are_none(published):
    stream = Denoiser(published)
    before = stream.process(np.ones(700))
    for samples, complaint in (
        (np.zeros((1, 256)), r"shape \(1, 256\): a stream takes one channel"),
        (np.zeros(256, np.int16), "type int16: expected floating point in .*; divide 16-bit integers by 32768"),
        ([[0.1, 0.2], [0.3]], "samples: .*; a stream takes an array"),
        (["loud", "soft"], "type <U4: expected floating point"),
    ):
        with pytest.raises(UserError, match=complaint):
            stream.process(samples)
    after = stream.process(np.ones(700))
    stream.reset()
    np.testing.assert_array_equal(stream.process(np.ones(1400)), np.concatenate([before, after]))
    with pytest.raises(UserError, match="block of 101 samples: .* multiples of block_length=100"):
        stream.stream(100).process(np.zeros(101))
    with pytest.raises(UserError, match="block_length=0: must be at least 1"):
        stream.stream(0)


@pytest.mark.parametrize("value", [np.nan, np.inf, -1e20, 11.0])
@pytest.mark.parametrize("rate", [16000, 48000])
def test_samples_that_are_no_sound_are_heard_as_silence(published, noisy, caplog, value, rate):
    """One of them, once in a model, would make the rest of the stream NaN."""
    denoiser = Denoiser(published)
    broken, silent = noisy[:16000].astype(np.float64), noisy[:16000].astype(np.float64)
    broken[5000], broken[5100:5103], silent[5000], silent[5100:5103] = value, value, 0, 0

    def heard(wave):
        stream = denoiser.stream() if rate == 16000 else Resampled(denoiser.stream(), rate)
        return np.concatenate([stream.process(block) for block in np.split(wave, [999, 5050, 5101, 9000])]), stream

    (expected, clean), (output, stream) = heard(silent), heard(broken)
    np.testing.assert_array_equal(output, expected)
    assert (clean.invalid_samples, stream.invalid_samples) == (0, 4) and np.abs(output).max() > 0.01
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "NaN, infinite or over 10 times full scale are heard as silence" in caplog.text


def test_loudest_of_streams_is_that_of_files():
    assert LOUDEST == audio.LOUDEST


@pytest.mark.parametrize("fault", ["NaN", "exception"])
def test_a_model_that_fails_is_told_in_a_line_and_begins_anew(tmp_path, fault):
    """NaN would stay in the states; the runtime has a dozen kinds of exceptions."""
    path = make_onnx(tmp_path / "model.onnx", WAVE)
    model = onnx.load(path)
    if fault == "NaN":  # of samples below zero
        added, complaint = [helper.make_node("Sqrt", ["input"], ["x"])], "the model gives NaN or infinity"
    else:  # of samples from 2 on
        table = onnx.numpy_helper.from_array(np.arange(2, dtype=np.float32), "table")
        model.graph.initializer.append(table)
        added = [
            helper.make_node("Cast", ["input"], ["places"], to=TensorProto.INT64),
            helper.make_node("Gather", ["table", "places"], ["x"]),
        ]
        complaint = "model.onnx: the model failed at a hop: .*out of data bounds"
    for node in reversed(added):
        model.graph.node.insert(0, node)
    for node in model.graph.node[len(added) :]:
        node.input[0] = "x"
    onnx.save(model, path)
    denoiser = Denoiser(path)
    expected = denoiser.process(np.ones(256))
    with pytest.raises(UserError, match=complaint) as error:
        denoiser.process(np.full(256, -5.0))
    assert "\n" not in str(error.value)
    np.testing.assert_array_equal(denoiser.process(np.ones(256)), expected)


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
            {"shape": (1, 2, 1, 129)},
            r"inputs are input \[1, 2, 1, 129\], state.x \[1, 2, 1, 129\]; expected .* \[1, 129, 1, 2\]",
        ),
        ({"state": ("batch", 129, 1, 2)}, r"state.x \['batch', 129, 1, 2\]; expected .* fixed shapes"),
        ({"element": TensorProto.DOUBLE}, "all float"),
        ({"twice": True}, "outputs of the same shapes in the same order"),
    ):
        with pytest.raises(UserError, match=found):
            Denoiser(make_onnx(bad, **wrong), n_fft=256, hop_length=128)
    with pytest.raises(UserError, match=r"expected a spectrum \[1, 257, 1, 2\] or samples \[1, N\]"):
        Denoiser(make_onnx(bad))
    with pytest.raises(UserError, match=r"or samples \[1, 100\]"):
        Denoiser(make_onnx(bad, WAVE, metadata={"hop_length": "100"}))
    with pytest.raises(UserError, match="metadata can't be right: .*=many: must be a whole number"):
        Denoiser(make_onnx(bad, metadata={"n_fft": "many"}))
    with pytest.raises(UserError, match="hop_length=0: must lie between 1 and"):
        Denoiser(make_onnx(bad, metadata={"hop_length": "0"}))
    with pytest.raises(UserError, match="bad.onnx: hop_length=200: must be at least 1 and at most half of n_fft=256"):
        Denoiser(make_onnx(bad), n_fft=256, hop_length=200)
    with pytest.raises(UserError, match="bad.onnx: window=hamming: must be one of"):
        Denoiser(make_onnx(bad, metadata={"window": "hamming"}), n_fft=256, hop_length=128)


def test_litert_files_that_do_not_fit_are_named(tmp_path):
    path = make(tmp_path, "tflite")
    content = path.read_bytes()
    for damaged in (b"", b"not a model at all", content[: len(content) // 2]):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match="model.tflite: damaged, or not a LiteRT model: .*") as error:
            Denoiser(path)
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="outputs of the same shapes in the same order"):
        Denoiser(make(tmp_path, "tflite", twice=True), n_fft=256, hop_length=128)
    with pytest.raises(UserError, match=r"inputs are input \[1, 129, 1, 2\], state .*; expected .* \[1, 257, 1, 2\]"):
        Denoiser(path)


@pytest.mark.parametrize(
    ("name", "package", "extra"),
    [("onnx", "onnxruntime", "export"), ("tflite", "ai_edge_litert.interpreter", "device")],
)
def test_missing_package_is_one_line(tmp_path, monkeypatch, name, package, extra):
    path = make(tmp_path, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=rf"model.{name}: running it needs .*: pip install -e '.\[{extra}\]'"):
        Denoiser(path)


class Passing:
    def __call__(self, x):
        return x

    def reset(self):
        pass


@pytest.mark.parametrize(("n_fft", "hop"), [(256, 128), (256, 64), (320, 160), (512, 32), (512, 160)])
@pytest.mark.parametrize("window", ["hann_sqrt", "hann"])
def test_framing_alone_changes_nothing(noisy, n_fft, hop, window):
    stream = Stream(STFTStep(n_fft, hop, Passing(), window), 16000, hop, n_fft - hop)
    output = stream.process(noisy)
    np.testing.assert_allclose(output[n_fft - hop :], noisy[: len(output) - n_fft + hop], atol=1e-6)


@pytest.mark.parametrize("block_length", [None, 1, 100])
@pytest.mark.parametrize("length", [0, 100, 1000, 1300])
def test_flush_completes_the_output(noisy, block_length, length):
    stream, wave = Stream(STFTStep(256, 128, Passing()), 16000, 128, 128, block_length), noisy[:length]
    for _ in range(2):  # the second time, it is a new stream
        output = np.concatenate(
            [stream.process(wave[: length // 200 * 100]), stream.process(wave[length // 200 * 100 :])]
        )
        whole = np.concatenate([output, stream.flush()])
        assert len(whole) == length + stream.latency
        np.testing.assert_allclose(whole[stream.latency :], wave, atol=1e-6)
