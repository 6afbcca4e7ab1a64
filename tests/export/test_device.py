"""What a device gets: C that compiles without a warning and gives on real audio what Python gives."""

import ctypes
import errno
import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from gtcrn.dsp.spectra import magnitude_and_parts
from gtcrn.errors import UserError
from gtcrn.export.device import arena, folder
from gtcrn.export.device.folder import write_device_files
from gtcrn.export.device.model_file import read_model_file
from gtcrn.export.metadata import Weights, describe
from gtcrn.models import micro
from gtcrn.models.enhancer import SpectralEnhancer
from gtcrn.runtime.framing import STFTStep
from gtcrn.runtime.integrity import read_parts, write_parts

pytest.importorskip("ai_edge_litert")
if not shutil.which("gcc"):
    pytest.skip("gcc is missing, which the C code is compiled with", allow_module_level=True)

import flatbuffers  # noqa: E402
from ai_edge_litert import schema_py_generated as schema  # noqa: E402
from ai_edge_litert.interpreter import Interpreter  # noqa: E402

from gtcrn.export.writers.flatbuffer import IntegerGraph, write  # noqa: E402
from gtcrn.quantization.calibration import quantize_enhancer  # noqa: E402
from gtcrn.quantization.network import Network  # noqa: E402
from gtcrn.runtime.integer_step import IntegerStep, TFLiteMicro  # noqa: E402

STRICT = ["-O2", "-Wall", "-Wextra", "-Werror", "-pedantic"]
HOP, BANDS, MASK = 256, 129, 258  # of the published network
CLOSE = 1e-6  # of the peak, of samples of full scale: a thirtieth of a step of 16 bits
NETWORK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)


def compiled(target: Path, *sources: str, compiler: str = "gcc", std: str = "c99", options=()) -> Path:
    """A program, or by its suffix a library or an object, of sources in the same folder."""
    kind = {".so": ["-shared", "-fPIC"], ".o": ["-c", "-fPIC"]}.get(target.suffix, [])
    command = [compiler, f"-std={std}", *STRICT, *kind, *options, "-o", target, *sources, "-lm"]
    run = subprocess.run(command, cwd=target.parent, capture_output=True, text=True)
    assert run.returncode == 0 and not run.stderr, run.stderr
    return target


class LiteRT:
    """A step of codes."""

    def __init__(self, file: Path):
        self.interpreter = Interpreter(str(file), num_threads=1)
        self.interpreter.allocate_tensors()
        self.inputs, self.outputs = self.interpreter.get_input_details(), self.interpreter.get_output_details()
        self.reset()

    def reset(self):
        for node in self.inputs:
            self.set(node, np.full(node["shape"], node["quantization"][1]))

    def set(self, node, value):
        self.interpreter.set_tensor(node["index"], value.astype(node["dtype"]))

    def __call__(self, codes):
        self.set(self.inputs[0], codes.reshape(self.inputs[0]["shape"]))
        self.interpreter.invoke()
        for state, following in zip(self.inputs[1:], self.outputs[1:]):
            self.set(state, self.interpreter.get_tensor(following["index"]))
        return self.interpreter.get_tensor(self.outputs[0]["index"])


class Device:
    """The files of one network, and the C code as a library."""

    def __init__(self, network: Network, enhancer: SpectralEnhancer, path: Path):
        graph = IntegerGraph(network, enhancer.core)
        self.file, self.folder = path / "network.tflite", path / "device"
        self.facts = describe(graph, enhancer, Weights("a test", "MIT"))
        write(graph, self.file, self.facts.metadata())
        self.parts = read_parts(self.file)
        write_device_files(self.file, self.folder)
        described = read_model_file(self.file)
        self.dtype, self.mask_dtype = (np.dtype(f"int{t.bits}") for t in (described.input, described.mask))
        (self.folder / "size.c").write_text(
            '#include "gtcrn_host.h"\nunsigned size(void);\nunsigned size(void) { return sizeof(gtcrn_host); }\n'
        )
        sources = "gtcrn_host.c", "gtcrn_model.c", "size.c"
        self.library = ctypes.CDLL(compiled(self.folder / "host.so", *sources, options=["-Wconversion"]))
        code, mask_code = map(np.ctypeslib.as_ctypes_type, (self.dtype, self.mask_dtype))
        bands = enhancer.core.erb.n_bands
        fields = {
            "past": ctypes.c_float * enhancer.framing.delay,
            "overlap": ctypes.c_float * enhancer.framing.delay,
            "spectrum": ctypes.c_float * (enhancer.window_length + 2),
            "bands": ctypes.c_float * (3 * bands),
            "input": code * (6 * bands),
            "mask": mask_code * (2 * bands),
        }
        self.kind = type("Host", (ctypes.Structure,), {"_fields_": list(fields.items())})

    def run(self, hops, network=None) -> dict[str, np.ndarray]:
        """Of a whole stream what C has and gives. network: input codes (N,) -> codes of a mask."""
        host = self.kind()
        ctypes.memset(ctypes.byref(host), 0xFF, ctypes.sizeof(host))  # all that it must forget
        self.library.gtcrn_reset(ctypes.byref(host))
        seen = {"spectrum": [], "bands": [], "input": [], "mask": [], "samples": []}

        @NETWORK
        def called(*_):
            host.mask[:] = network(np.array(host.input)).ravel().tolist()
            for name in ("spectrum", "bands", "input", "mask"):
                seen[name].append(np.array(getattr(host, name)))
            return 0

        for hop in hops:
            samples = np.array(hop, np.float32)
            place = samples.ctypes.data_as(ctypes.c_void_p)
            assert not self.library.gtcrn_process(ctypes.byref(host), called if network else None, None, place, place)
            seen["samples"].append(samples)
        return {name: np.array(values) for name, values in seen.items()}

    def run_in_python(self, hops, network) -> dict[str, np.ndarray]:
        """The same of Python alone: codes and samples. network: a step of codes."""
        codes = []

        def called(x):
            codes.append(x.ravel().astype(int))
            return network(x)

        signal = self.facts.signal
        step = STFTStep(signal.n_fft, signal.hop_length, IntegerStep(called, self.file, self.parts))
        samples = [step(hop[None])[0].copy() for hop in hops]
        return {"input": np.array(codes), "samples": np.array(samples)}


@pytest.fixture(scope="module")
def hops(noisy):
    return noisy[: len(noisy) // HOP * HOP].reshape(-1, HOP)


@pytest.fixture(scope="module")
def enhancer(system):
    return system("micro")


@pytest.fixture(scope="module", params=["int8", "mixed", "int16x8"])
def device(request, enhancer, noisy, tmp_path_factory):
    """The published network, calibrated with a quarter of a second."""
    network = quantize_enhancer(enhancer, request.param, [noisy[16000:20000]])
    return Device(network, enhancer, tmp_path_factory.mktemp("device"))


@pytest.fixture(scope="module")
def example(device):
    return compiled(device.folder / "example", "example.c", "gtcrn_host.c", "gtcrn_model.c")


@pytest.fixture(scope="module")
def heard(device, hops):
    """What C has and gives with the network in LiteRT."""
    return device.run(hops, LiteRT(device.file))


@pytest.fixture(scope="module")
def expected(device, hops):
    return device.run_in_python(hops, LiteRT(device.file))


@torch.no_grad()
def test_spectra_and_bands(heard, hops, enhancer):
    framing = enhancer.framing
    spec, _ = framing.analysis(torch.from_numpy(hops.reshape(1, -1)), framing.initial_state(1))  # (1, 2, T, F)
    bands = enhancer.core.erb.analysis(magnitude_and_parts(spec))
    for name, reference in (("spectrum", spec), ("bands", bands)):
        reference = reference[0].movedim(0, -1).flatten(1).numpy()
        np.testing.assert_allclose(heard[name], reference, rtol=0, atol=CLOSE * np.abs(reference).max())


@pytest.mark.parametrize("level", [1, 8])
def test_codes_of_the_same_bands(device, hops, level):
    """Also of what is louder than the codes can tell."""
    heard = device.run(level * hops, lambda codes: np.zeros(MASK, int))
    encode = IntegerStep(None, device.file, device.parts).encode
    codes = np.array([encode(bands.reshape(BANDS, 3).T).ravel() for bands in heard["bands"]])
    np.testing.assert_array_equal(heard["input"], codes)
    limits = np.iinfo(device.dtype)
    assert (codes.min() == limits.min and codes.max() == limits.max) == (level == 8)


def test_codes_are_pythons_but_for_ties(device, heard, expected):
    gain = device.facts.integers.codes.residual_gain
    both = (codes.reshape(-1, BANDS, 6).astype(int) for codes in (heard["input"], expected["input"]))
    ours, pythons = (gain * codes[..., :3] + codes[..., 3:] for codes in both)  # in steps of the residual
    assert np.abs(ours - pythons).max() <= 1
    assert np.mean(ours != pythons) < (2e-4 if device.dtype == np.int8 else 2e-3)


def test_samples_of_the_same_masks(device, heard, hops):
    masks = iter(heard["mask"].reshape(-1, 1, 1, BANDS, 2))
    step = STFTStep(2 * HOP, HOP, IntegerStep(lambda codes: next(masks), device.file, device.parts))
    samples = [step(hop[None])[0].copy() for hop in hops]
    assert np.abs(heard["samples"]).max() > 0.4
    np.testing.assert_allclose(heard["samples"], samples, rtol=0, atol=CLOSE)


def assert_agree(device, ours, pythons):
    """Equal until the first tie that is decided otherwise; the network's own rounding amplifies that, by as much as the
    recording happens to allow, but no further than integers are from the float model."""
    noise = ours["samples"] - pythons["samples"]
    differ = (ours["input"] != pythons["input"]).any(axis=1)
    before = np.argmax(differ) if differ.any() else len(differ)
    assert (np.abs(noise[:before]) < CLOSE).all() and np.abs(pythons["samples"]).max() > 0.001
    snr = 10 * np.log10(np.sum(pythons["samples"] ** 2) / np.sum(noise**2))
    assert snr > {"int8": 26, "mixed": 28, "int16x8": 36}[device.facts.integers.quantize]  # dB


def test_end_to_end(device, heard, expected):
    assert_agree(device, heard, expected)


def test_other_sizes_and_a_zero_point(noisy, tmp_path):
    """Four frames overlap, and the input's range is not symmetric."""
    torch.manual_seed(0)
    enhancer = micro.build(channels=4, stacks=1, blocks=1, erb_low_bins=9, erb_bands=8, n_fft=64, hop_length=16).eval()
    hops = noisy[8000:16000].reshape(-1, 16)
    network = quantize_enhancer(enhancer, "int8", [hops.ravel()])
    network.set_range("bands", -2.0, 4.0)
    device = Device(network, enhancer, tmp_path)
    assert read_model_file(device.file).input.zero == -43
    assert_agree(device, device.run(hops, LiteRT(device.file)), device.run_in_python(hops, LiteRT(device.file)))
    passed = device.run(hops)["samples"]
    np.testing.assert_allclose(passed[3:], hops[:-3], rtol=0, atol=CLOSE)


def test_without_a_network_all_passes(device, hops):
    passed = device.run(hops)["samples"]
    np.testing.assert_allclose(passed, np.concatenate([np.zeros((1, HOP)), hops[:-1]]), rtol=0, atol=CLOSE)


def test_what_is_no_number_is_soon_forgotten(device, hops):
    broken = hops[:8].copy()
    broken[2, 7] = np.nan
    broken[2, 9] = np.inf
    lowest = []

    def network(codes):
        lowest.append((codes == np.iinfo(device.dtype).min).all())
        return np.zeros(MASK, int)

    device.run(broken, network)
    assert lowest == [False, False, True, True, False, False, False, False]
    assert np.isfinite(device.run(broken)["samples"][5:]).all()


def test_a_failing_network_lets_pass_and_tells(device, hops):
    host = device.kind()
    device.library.gtcrn_reset(ctypes.byref(host))
    samples = hops[20:22].copy()
    for hop in samples:
        place = hop.ctypes.data_as(ctypes.c_void_p)
        assert device.library.gtcrn_process(ctypes.byref(host), NETWORK(lambda *_: 3), None, place, place) == 3
    np.testing.assert_allclose(samples[1], hops[20], rtol=0, atol=CLOSE)


def test_memory_is_as_the_guide_says(device):
    guide = (device.folder / "README.md").read_text()
    host, states = (
        int(re.search(rf"\| {name} \| (\d+) \|", guide)[1]) for name in ("`gtcrn_host`, one stream", "states")
    )
    network, tables = (int(re.search(rf"\| {name} \| \| (\d+) \|", guide)[1]) for name in ("network", "tables"))
    assert host == device.library.size() == ctypes.sizeof(device.kind)
    assert states == {"int8": 38112, "mixed": 41376, "int16x8": 76224}[device.facts.integers.quantize]
    subprocess.run(["gcc", "-std=c99", "-Os", "-c", "gtcrn_model.c"], cwd=device.folder, check=True)
    sizes = subprocess.run(["size", "gtcrn_model.o"], cwd=device.folder, capture_output=True, text=True, check=True)
    text, data, zeros = map(int, sizes.stdout.splitlines()[1].split()[:3])
    assert zeros == 0 and network + tables <= text + data < network + tables + 400  # for pointers of 64 bits


def test_the_example_with_the_network_in_litert(device, example, heard, hops, tmp_path):
    """The same samples as 16-bit PCM, of a WAV file and of bare samples."""
    pcm = (hops.ravel() * 32768).astype(np.int16)
    soundfile.write(tmp_path / "noisy.wav", pcm, 16000)
    (tmp_path / "noisy.pcm").write_bytes(pcm.tobytes())
    outputs = []
    for suffix in ("wav", "pcm"):
        files = tmp_path / f"noisy.{suffix}", tmp_path / f"enhanced.{suffix}"
        command = [sys.executable, device.folder / "with_litert.py", device.file, example, *files]
        subprocess.run(command, check=True, timeout=60)
        outputs.append(files[1])
    samples, rate = soundfile.read(outputs[0], dtype="int16")
    assert rate == 16000
    np.testing.assert_array_equal(samples, np.rint(heard["samples"].ravel() * 32768).astype(int))
    assert outputs[1].read_bytes() == samples.tobytes()


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (dict(samplerate=48000), "at the network's rate"),
        (dict(samplerate=16000, subtype="PCM_24"), "16-bit PCM"),
        (dict(data=np.zeros((900, 2)), samplerate=16000), "one channel"),
        (None, "can't be opened"),
    ],
)
def test_the_example_tells_what_it_can_not_read(example, tmp_path, wrong, reason):
    if wrong:
        soundfile.write(tmp_path / "x.wav", **{"data": np.zeros(900), **wrong})
    run = subprocess.run([example, tmp_path / "x.wav", tmp_path / "y.wav"], capture_output=True, text=True)
    assert run.returncode == 1 and reason in run.stderr and run.stderr.count("\n") == 1
    assert not (tmp_path / "y.wav").exists()


def test_an_example_that_ends_too_early_is_no_traceback(device, tmp_path):
    program = tmp_path / "example"
    program.write_text("#!/bin/sh\nexec <&-\nhead -c 99999 /dev/zero\nexit 3\n")
    program.chmod(0o755)
    command = [sys.executable, device.folder / "with_litert.py", device.file, program, "x.wav", "y.wav"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert run.returncode == 3 and "Traceback" not in run.stderr


@pytest.fixture(scope="module")
def counting(device):
    """Compiles what surrounds TensorFlow Lite Micro, whose sources are not here, around a network that counts."""
    if not shutil.which("g++"):
        pytest.skip("g++ is missing, which compiles what surrounds TensorFlow Lite Micro")
    root = device.folder / "include" / "tensorflow" / "lite"
    for name in ("micro/micro_interpreter.h", "micro/micro_mutable_op_resolver.h", "schema/schema_generated.h"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(Path(__file__).parent / "fake_tflite_micro.h", root / name)
    compiled(device.folder / "model.o", "gtcrn_model.c")
    options = ["-I.", "-Iinclude", "-Wno-sign-compare"]
    cpp = dict(compiler="g++", std="c++17", options=options)
    return lambda target, *objects: compiled(device.folder / target, "gtcrn_tflm.cc", "model.o", *objects, **cpp)


def test_states_in_tflite_micro_survive_its_use_of_memory(device, counting):
    library = ctypes.CDLL(counting("tflm.so"))
    zeros = [state.zero for state in read_model_file(device.file).states]
    codes, mask = np.arange(6 * BANDS).astype(np.int8).astype(device.dtype), np.zeros(MASK, device.mask_dtype)
    for _ in range(2):
        assert library.gtcrn_tflm_reset() == 0
        for hop in range(3):
            places = (x.ctypes.data_as(ctypes.c_void_p) for x in (codes, mask))
            assert library.gtcrn_tflm(None, *places) == 0
            np.testing.assert_array_equal(mask[: len(zeros)], np.array(zeros) + hop)
            np.testing.assert_array_equal(mask[len(zeros) :], codes[len(zeros) : MASK])


def test_the_example_around_tflite_micro(device, counting, tmp_path):
    compiled(device.folder / "host.o", "gtcrn_host.c")
    compiled(device.folder / "example.o", "example.c", options=["-DGTCRN_TFLM"])
    program = counting("example_tflm", "example.o", "host.o")
    soundfile.write(tmp_path / "x.wav", np.zeros(1000), 16000)
    subprocess.run([program, tmp_path / "x.wav", tmp_path / "y.wav", "-"], check=True)
    assert soundfile.info(tmp_path / "y.wav").frames == 4 * HOP


def test_around_tflite_micro(device, hops):
    """The real interpreter between the halves in C gives what it gives in Python."""
    pytest.importorskip("tflite_micro")
    network = TFLiteMicro(device.file, device.parts.metadata)
    ours = device.run(hops[:30], lambda codes: network(codes.reshape(1, 1, BANDS, 6)))
    network.reset()
    assert_agree(device, ours, device.run_in_python(hops[:30], network))


def test_operators_are_those_of_the_file(device):
    text = (device.folder / "gtcrn_operators.h").read_text()
    added = {name.lower() for name in re.findall(r"resolver\.Add(\w+)\(\)", text)}
    assert added == {name.replace("_", "").lower() for name in device.facts.integers.operators}
    assert f"MicroMutableOpResolver<{len(added)}>" in text


def test_arena_is_what_tflite_micro_needs(device):
    runtime = pytest.importorskip("tflite_micro").runtime
    content = read_model_file(device.file).content
    size = arena.arena_size(content)
    assert f"#define GTCRN_ARENA_SIZE {size}\n" in (device.folder / "gtcrn_model.h").read_text()
    runtime.Interpreter.from_bytes(content, arena_size=size)
    with pytest.raises(RuntimeError):
        runtime.Interpreter.from_bytes(content, arena_size=size - 16)


def test_arena_is_a_guess_that_says_so(device, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    write_device_files(device.file, tmp_path)
    size = 3 * len(read_model_file(device.file).content)
    assert f"#define GTCRN_ARENA_SIZE {size}\n" in (tmp_path / "gtcrn_model.h").read_text()
    assert "is a guess" in (tmp_path / "README.md").read_text()


def edited(file: Path, target: Path, content: bytes | None = None, **changes) -> Path:
    """The file with another model or other metadata, without those that are None."""
    parts = read_parts(file)
    metadata = {key: value for key, value in (parts.metadata | changes).items() if value}
    write_parts(target, content or parts.content, metadata, parts.members)
    return target


def test_bad_files_are_one_line(device, tmp_path):
    bad = tmp_path / "bad.tflite"
    cases = {"can't be read": lambda: None}
    cases["damaged or cut off"] = lambda: bad.write_bytes(read_model_file(device.file).content)
    cases["residual_gain=not stated: must be a whole number"] = lambda: edited(device.file, bad, residual_gain=None)
    cases["hop_length=100: the C code needs"] = lambda: edited(device.file, bad, hop_length="100")
    for reason, make in cases.items():
        make()
        with pytest.raises(UserError, match=re.escape(reason)) as caught:
            write_device_files(bad, tmp_path / "out")
        assert str(bad) in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_network_in_float_is_refused(device, tmp_path):
    model = schema.ModelT.InitFromPackedBuf(read_model_file(device.file).content)
    for number in (*model.subgraphs[0].inputs, *model.subgraphs[0].outputs):
        model.subgraphs[0].tensors[number].type = schema.TensorType.FLOAT32
    builder = flatbuffers.Builder()
    builder.Finish(model.Pack(builder), b"TFL3")
    file = edited(device.file, tmp_path / "float.tflite", content=bytes(builder.Output()))
    with pytest.raises(UserError, match="not all in 8 or 16 bits; export it with .* quantize=int8"):
        write_device_files(file, tmp_path)


def test_an_operator_that_is_not_known_is_named(device, tmp_path, monkeypatch):
    monkeypatch.delitem(folder.values.__globals__["REGISTER"], "MEAN")
    with pytest.raises(UserError, match="holds MEAN, which TensorFlow Lite Micro is not known to have"):
        write_device_files(device.file, tmp_path)


def test_all_or_nothing(device, tmp_path, monkeypatch):
    target = tmp_path / "device"
    write_device_files(device.file, target)
    (target / "older").touch()
    written = Path.write_bytes

    def full(path, content):
        if path.name == "gtcrn_model.c":
            raise OSError(errno.ENOSPC, "No space left on device")
        return written(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(UserError, match="No space left"):
            write_device_files(device.file, target)
    assert [path.name for path in tmp_path.iterdir()] == ["device"] and (target / "older").exists()
    assert {path.name for path in write_device_files(device.file, target)} == {path.name for path in target.iterdir()}


def test_a_folder_of_other_things_is_left_alone(device, tmp_path):
    (tmp_path / "thesis").touch()
    with pytest.raises(UserError, match="holds other things"):
        write_device_files(device.file, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis"]


def test_a_folder_that_can_not_be_written_to(device, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="can't be written to"):
        write_device_files(device.file, tmp_path / "file" / "x")
