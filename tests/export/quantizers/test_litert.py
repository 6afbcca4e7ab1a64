"""Integers in a small .tflite, a convolution over time, a GRU with a mask and framing around, on real speech."""

import json
import sys
import zipfile

import numpy as np
import pytest

from gtcrn.dsp.snr import measured_snr
from gtcrn.errors import UserError
from gtcrn.runtime.denoiser import Denoiser

tflite = pytest.importorskip("ai_edge_litert.schema_py_generated")
flatbuffers = pytest.importorskip("flatbuffers")
from gtcrn.export.formats import FORMATS  # noqa: E402
from gtcrn.export.quantizers import litert  # noqa: E402  it needs the packages above
from gtcrn.export.quantizers.litert import choice  # noqa: E402
from gtcrn.export.quantizers.litert.observation import opened  # noqa: E402
from gtcrn.export.quantizers.litert.tables import LAYERS, File  # noqa: E402

HOP, CHANNELS, UNITS = 32, 8, 6
MACS = {"conv": HOP * 3 * CHANNELS, "depth": HOP * 3 * CHANNELS, "gates": 2 * HOP * CHANNELS * UNITS, "past": UNITS**2}
MACS |= {"mask": UNITS * HOP, "cell": UNITS * HOP}
OUTSIDE = {"erb_fc": HOP * HOP, "energy": HOP * CHANNELS * HOP}


class Drawing:
    """A float .tflite, operator by operator."""

    def __init__(self):
        self.model, self.graph = tflite.ModelT(), tflite.SubGraphT()
        self.model.version, self.model.subgraphs, self.model.buffers = 3, [self.graph], [tflite.BufferT()]
        self.model.operatorCodes, self.graph.tensors, self.graph.operators = [], [], []
        self.random = np.random.default_rng(0)

    def tensor(self, name: str, *shape: int, values: np.ndarray | None = None) -> int:
        tensor = tflite.TensorT()
        tensor.name, tensor.shape, tensor.type = f"x/y/a_{name}".encode(), np.array(shape, np.int32), 0
        if values is not None:
            buffer = tflite.BufferT()
            buffer.data = np.frombuffer(values.tobytes(), np.uint8)
            tensor.buffer, tensor.shape = len(self.model.buffers), np.array(values.shape, np.int32)
            tensor.type = tflite.TensorType.INT32 if values.dtype == np.int32 else tflite.TensorType.FLOAT32
            self.model.buffers.append(buffer)
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def weight(self, *shape: int) -> int:
        fan = np.prod(shape[1:-1]) if shape[0] == 1 else np.prod(shape[1:])
        return self.tensor("w", values=self.random.normal(0, fan**-0.5, shape).astype(np.float32))

    def integers(self, *values) -> int:
        return self.tensor("shape", values=np.array(values, np.int32))

    def op(self, kind: str, inputs: list[int], name: str, *shape: int, table: str = "", **options) -> int:
        code, op = tflite.OperatorCodeT(), tflite.OperatorT()
        code.builtinCode = code.deprecatedBuiltinCode = getattr(tflite.BuiltinOperator, kind)
        code.version = 1
        self.model.operatorCodes.append(code)
        op.opcodeIndex, op.inputs = len(self.model.operatorCodes) - 1, np.array(inputs, np.int32)
        op.outputs = np.array([self.tensor(name, *shape)], np.int32)
        if table:
            op.builtinOptionsType, op.builtinOptions = (
                getattr(tflite.BuiltinOptions, table),
                getattr(tflite, f"{table}T")(),
            )
            for key, value in options.items():
                setattr(op.builtinOptions, key, value)
        self.graph.operators.append(op)
        return op.outputs[0]

    def write(self, path, inputs: dict[str, int], outputs: dict[str, int]) -> None:
        for name, i in (inputs | outputs).items():
            self.graph.tensors[i].name = name.encode()
        self.graph.inputs, self.graph.outputs = (np.array(list(s.values()), np.int32) for s in (inputs, outputs))
        builder = flatbuffers.Builder()
        builder.Finish(self.model.Pack(builder), b"TFL3")
        path.write_bytes(builder.Output())
        metadata = dict(kind="wave", sample_rate="16000", n_fft="64", hop_length=str(HOP), latency="0")
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("metadata.json", json.dumps(metadata))


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """samples -> convolution -> its past -> depthwise over three hops -> GRU -> mask; beside it a cell that adds up, a
    gate of energies, and an ERB matrix."""
    d = Drawing()
    x = d.tensor("input", 1, HOP)
    past, hidden, cell = d.tensor("past", 1, 2, HOP, CHANNELS), d.tensor("h", 1, UNITS), d.tensor("c", 1, UNITS)
    folded = d.op("RESHAPE", [x, d.integers(1, 1, HOP, 1)], "fold", 1, 1, HOP, 1)
    bias = d.tensor("b", values=d.random.normal(0, 0.1, CHANNELS).astype(np.float32))
    conv = dict(table="Conv2DOptions", strideW=1, strideH=1, padding=tflite.Padding.SAME)
    y = d.op("CONV_2D", [folded, d.weight(CHANNELS, 1, 3, 1), bias], "conv", 1, 1, HOP, CHANNELS, **conv)
    y = d.op("LEAKY_RELU", [y], "act", 1, 1, HOP, CHANNELS, table="LeakyReluOptions", alpha=0.2)
    frames = d.op("CONCATENATION", [past, y], "frames", 1, 3, HOP, CHANNELS, table="ConcatenationOptions", axis=1)
    size = d.integers(1, 2, HOP, CHANNELS)
    slices = [frames, d.integers(0, 1, 0, 0), size]
    next_past = d.op("SLICE", slices, "next", 1, 2, HOP, CHANNELS, table="SliceOptions")
    depth = dict(table="DepthwiseConv2DOptions", strideW=1, strideH=1, depthMultiplier=1, padding=tflite.Padding.VALID)
    y = d.op("DEPTHWISE_CONV_2D", [frames, d.weight(1, 3, 1, CHANNELS), bias], "depth", 1, 1, HOP, CHANNELS, **depth)
    y = d.op("RESHAPE", [y, d.integers(1, HOP * CHANNELS)], "flat", 1, HOP * CHANNELS)

    def linear(x: int, inputs: int, outputs: int, name: str) -> int:
        weight = d.weight(outputs, inputs)
        return d.op("FULLY_CONNECTED", [x, weight, -1], name, 1, outputs, table="FullyConnectedOptions")

    def binary(kind: str, a: int, b: int, name: str, size: int) -> int:
        return d.op(kind, [a, b], name, 1, size, table=f"{kind.title()}Options")

    update = d.op("LOGISTIC", [linear(y, HOP * CHANNELS, UNITS, "gates")], "update", 1, UNITS)
    new = binary("ADD", linear(y, HOP * CHANNELS, UNITS, "gates"), linear(hidden, UNITS, UNITS, "past"), "sum", UNITS)
    new = d.op("TANH", [new], "new", 1, UNITS)
    step = binary("MUL", update, binary("SUB", hidden, new, "difference", UNITS), "step", UNITS)
    next_hidden = binary("ADD", new, step, "hidden", UNITS)
    next_cell = binary("ADD", binary("MUL", update, cell, "kept", UNITS), new, "cell", UNITS)
    mask = binary("ADD", linear(next_hidden, UNITS, HOP, "mask"), linear(next_cell, UNITS, HOP, "cell"), "sum", HOP)
    energies = binary("MUL", y, y, "energies", HOP * CHANNELS)
    mask = binary("ADD", mask, linear(energies, HOP * CHANNELS, HOP, "energy"), "sum", HOP)
    masked = binary("MUL", d.op("LOGISTIC", [mask], "sigmoid", 1, HOP), x, "masked", HOP)
    output = binary("ADD", masked, linear(masked, HOP, HOP, "erb_fc"), "sum", HOP)
    path = tmp_path_factory.mktemp("litert") / "small.tflite"
    inputs = {"input": x, "state.past": past, "state.hidden": hidden, "state.cell": cell}
    outputs = {"output": output, "next_state.past": next_past, "next_state.hidden": next_hidden}
    d.write(path, inputs, outputs | {"next_state.cell": next_cell})
    return path


@pytest.fixture(scope="module")
def waves(noisy):
    return [noisy[: 16000 // HOP * HOP]]


@pytest.fixture(scope="module")
def written(source, waves):
    """In all kinds of integers."""
    files = {name: source.with_name(f"{name}.tflite") for name in FORMATS["litert"].quantize}
    for name, path in files.items():
        litert.quantize(source, path, name, [] if name == "dynamic" else waves)
    return files


@pytest.mark.parametrize(("quantize", "least"), [("int8", 25), ("mixed", 25), ("int16x8", 38), ("dynamic", 30)])
def test_streams_what_the_float_file_streams(source, written, noisy, quantize, least):
    other = noisy[16000 : 16000 + 1000 * HOP]
    exact, rounded = Denoiser(source).process(other), Denoiser(written[quantize]).process(other)
    assert least < measured_snr(rounded, exact) < 80


def test_inputs_outputs_and_metadata_are_kept(source, written):
    from ai_edge_litert.interpreter import Interpreter

    def ends(path):
        interpreter = Interpreter(str(path))
        sides = interpreter.get_input_details(), interpreter.get_output_details()
        return [[(node["name"], node["dtype"], node["shape"].tolist()) for node in side] for side in sides]

    def described(path):
        with zipfile.ZipFile(path) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        return members | {"metadata.json": json.loads(members["metadata.json"]) | {"sha256": None}}

    for path in written.values():
        assert ends(path) == ends(source)
        assert described(path) == described(source)


def test_all_but_the_matrix_outside_is_multiplied_in_integers(source, written):
    inside, outside = sum(MACS.values()), sum(OUTSIDE.values())
    for path in written.values():
        done = litert.work(path)
        assert (done.integers, done.floats) == (inside, outside)
        assert list(done.left) == ["FULLY_CONNECTED"]
        assert "ERB" in done.left["FULLY_CONNECTED"] and "energies" in done.left["FULLY_CONNECTED"]
    assert litert.work(written["int8"]).operators["CONV_2D"] == 1
    assert litert.work(written["dynamic"]).operators["CONV_2D, float"] == 1
    exact = litert.work(source)
    assert (exact.integers, exact.floats, exact.share) == (0, inside + outside, 0)
    assert set(exact.left) == {"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"}


def test_kernels_of_floats_with_weights_of_eight_bits_round_what_comes_in(source, written):
    """Beside a loud sample a faint one is lost."""
    faint, loud = np.zeros((2, 1, HOP), np.float32)
    faint[0, 20], loud[0, 4] = 1e-3, 1
    for path, lost in ((source, False), (written["dynamic"], True)):
        step, (conv,) = opened(path, [File(path).names()["conv"]])
        step(loud)
        without = conv.copy()
        step(loud + faint)
        assert np.array_equal(without, conv) == lost


def test_states_come_back_as_they_went_out(written, waves):
    """A state has the scale of the next one: what a hop reads of it is what the hop before wrote. One that adds
    up stays in float."""
    file = File(written["int8"])
    scales = {}
    for op, kind in zip(file.operators, file.kinds):
        ends = {"QUANTIZE": (op.inputs[0], op.outputs[0]), "DEQUANTIZE": (op.outputs[0], op.inputs[0])}.get(kind)
        if ends:
            name, coding = file.tensors[ends[0]].name, file.tensors[ends[1]].quantization
            scales[name] = coding.scale[0], coding.zeroPoint[0]
    for state in (b"state.past", b"state.hidden"):
        assert scales[state] == scales[b"next_" + state]
    assert b"state.cell" not in scales


def test_errors_are_told_by_tensor(source, written, waves):
    narrow, wide = (litert.tensor_errors(source, written[name], waves[0]) for name in ("int8", "int16x8"))
    layers = [
        "conv",
        "depth",
        "gates",
        "update",
        "gates;1",
        "past",
        "new",
        "mask",
        "cell",
        "energy",
        "sigmoid",
        "erb_fc",
    ]
    assert list(narrow.index) == list(wide.index) == layers
    assert (wide > narrow).all() and wide["conv"] > 40


@pytest.mark.parametrize(("enough", "wide"), [(-np.inf, False), (np.inf, True)])
def test_mixed_is_wide_where_eight_bits_are_not_enough(source, waves, monkeypatch, tmp_path, enough, wide):
    monkeypatch.setattr(choice, "ENOUGH", enough)
    litert.quantize(source, tmp_path / "mixed.tflite", "mixed", waves)
    file = File(tmp_path / "mixed.tflite")
    inputs = {file.tensors[op.inputs[0]].type for kind, op in zip(file.kinds, file.operators) if kind in LAYERS}
    assert inputs == {tflite.TensorType.FLOAT32, tflite.TensorType.INT16 if wide else tflite.TensorType.INT8}


def test_runs_in_tflite_micro(written, waves):
    runtime = pytest.importorskip("tflite_micro").runtime
    denoiser = Denoiser(written["int16x8"])
    expected = denoiser.process(waves[0][:HOP])
    interpreter = runtime.Interpreter.from_file(str(written["int16x8"]), arena_size=1 << 20)
    for number, shape in enumerate([(1, HOP), (1, 2, HOP, CHANNELS), (1, UNITS), (1, UNITS)]):
        interpreter.set_input(np.zeros(shape, np.float32), number)
    interpreter.set_input(waves[0][None, :HOP], 0)
    interpreter.invoke()
    np.testing.assert_allclose(interpreter.get_output(0)[0], expected, atol=1e-3)


def test_what_is_wrong_is_one_line(source, written, tmp_path):
    target = tmp_path / "x.tflite"
    with pytest.raises(UserError, match=r"^quantize=int8: needs recordings"):
        litert.quantize(source, target, "int8", [])
    with pytest.raises(UserError, match=r"int8.tflite: holds integers already"):
        litert.quantize(written["int8"], target, "dynamic", [])
    for content in (b"", b"PK\x05\x06" + bytes(18), source.read_bytes()[:2000], bytes(500) + source.read_bytes()[500:]):
        (tmp_path / "bad.tflite").write_bytes(content)
        with pytest.raises(UserError, match=r"bad.tflite: no .tflite of this framework"):
            litert.quantize(tmp_path / "bad.tflite", target, "dynamic", [])
    with pytest.raises(UserError, match=r"nowhere.tflite: no such file"):
        litert.work(tmp_path / "nowhere.tflite")
    assert not target.exists()


def test_without_the_package_it_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "ai_edge_litert", None)
    for name in [name for name in sys.modules if name.startswith("gtcrn.export.quantizers.litert")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(UserError, match=r"^integers for LiteRT need ai_edge_litert.*'\.\[litert\]'$"):
        import gtcrn.export.quantizers.litert  # noqa: F401
