"""The C file: what compilers say of it, what its functions do with samples, and what can't be written."""

import copy
import ctypes
import re
import shutil
import subprocess

import numpy as np
import pytest
import torch

from gtcrn.errors import UserError
from gtcrn.export.c import program
from gtcrn.export.c.writer import IntegerGraph, write
from gtcrn.quantization.checkpoint import simulation
from gtcrn.runtime.c_code import CStep
from gtcrn.runtime.framing import Stream, stream_arguments

STRICT = ["-Wall", "-Wextra", "-Werror", "-pedantic", "-Wconversion"]
LANGUAGES = {
    "gcc": ["-std=c99", "-Wmissing-prototypes"],
    "clang": ["-std=c99", "-Wmissing-prototypes"],
    "g++": ["-x", "c++", "-std=c++11"],
    "clang++": ["-x", "c++", "-std=c++17"],
}


def run(*command, **options):
    done = subprocess.run([*map(str, command)], capture_output=True, **options)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


@pytest.mark.parametrize("compiler", LANGUAGES)
@pytest.mark.parametrize("level", ["-Os", "-O3"])
def test_compiles_without_a_warning(small, compiler, level, tmp_path):
    if not shutil.which(compiler):
        pytest.skip(f"{compiler} is not installed")
    run(compiler, *LANGUAGES[compiler], *STRICT, level, "-c", small.source, "-o", tmp_path / "x.o")


@pytest.mark.skipif(not shutil.which("gcc"), reason="gcc is not installed")
def test_has_no_variables_and_three_functions(small, tmp_path):
    """Nothing but the state is written to, and nothing else is seen from outside."""
    run("gcc", "-std=c99", "-O2", "-fno-pic", "-c", small.source, "-o", tmp_path / "x.o")
    symbols = [line.split()[-2:] for line in run("nm", tmp_path / "x.o").decode().splitlines()]
    assert not [name for kind, name in symbols if kind in "bBdDcC"]
    functions = {f"{small.name}_{name}" for name in ("init", "process", "process_int16")}
    assert {name for kind, name in symbols if kind.isupper() and kind != "U"} == functions
    assert {name for kind, name in symbols if kind == "U"} <= {"memcpy", "memset", "rintf", "sqrtf"}


def stream_of(code):
    return Stream(*stream_arguments(CStep(code), code.signal))


_PROGRAM = """
#include <stdio.h>
#include "{name}.h"

int main(void)
{{
    static {name}_state state;
    float hop[{NAME}_HOP];
    {name}_init(&state);
    while (fread(hop, sizeof hop, 1, stdin)) {{
        {name}_process(&state, hop, hop);
        fwrite(hop, sizeof hop, 1, stdout);
    }}
    return 0;
}}
"""


@pytest.mark.skipif(not shutil.which("gcc"), reason="gcc is not installed")
def test_does_nothing_undefined(small, noise, compiled, tmp_path):
    """Not even with what is no number; and what is heard is what the stream of the folder gives."""
    (tmp_path / "main.c").write_text(_PROGRAM.format(name=small.name, NAME=small.name.upper()))
    sanitized = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    command = ["gcc", "-std=c99", "-O1", *sanitized, "-I", small.path, tmp_path / "main.c", small.source, "-lm"]
    if subprocess.run([*command, "-o", tmp_path / "main"], capture_output=True).returncode:
        pytest.skip("gcc has no sanitizers here")
    hop = small.enhancer.hop_length
    wave = noise[: 60 * hop].copy()
    heard = np.frombuffer(run(tmp_path / "main", input=wave.tobytes()), np.float32)
    np.testing.assert_allclose(heard, stream_of(compiled(small)).process(wave), rtol=0, atol=1e-6)
    wave[5 * hop] = np.nan
    run(tmp_path / "main", input=wave.tobytes())


def snr(output, expected):
    return 10 * np.log10(np.sum(expected**2) / np.sum((output - expected) ** 2))


@torch.inference_mode()
def simulated(model, wave):
    """The simulation in double precision: in single, ties that it decides otherwise are heard at -30 dB."""
    network, enhancer = copy.deepcopy(model.network).double(), copy.deepcopy(model.enhancer).double()
    return simulation(enhancer, network)(torch.from_numpy(wave)[None].double())[0][0].numpy()


def streamed(code, wave):
    stream = stream_of(code)
    return np.concatenate([stream.process(wave), stream.flush()])[stream.latency :]


def test_samples_of_small_models(small, compiled, noise):
    wave = noise[: 200 * small.enhancer.hop_length]
    assert snr(streamed(compiled(small), wave), simulated(small, wave)) > 50


def test_samples_of_real_speech(large, compiled, speech):
    assert snr(streamed(compiled(large), speech), simulated(large, speech)) > 50


def call(code, function, *arrays):
    getattr(code.library, f"{code.name}_{function}")(*arrays)


def pointer(array):
    return ctypes.c_void_p(array.ctypes.data)


def test_streams_do_not_know_of_one_another(small, compiled, noise):
    code, hop = compiled(small), small.enhancer.hop_length
    waves = noise[: 60 * hop].reshape(2, -1, hop).copy()
    alone = [stream_of(compiled(small)).process(wave.ravel()) for wave in waves]
    states = [code.state() for _ in waves]
    heard = np.empty_like(waves)
    for pair in zip(*waves, *heard):
        for state, samples, enhanced in zip(states, pair[:2], pair[2:]):
            call(code, "process", state, pointer(samples), pointer(enhanced))
    np.testing.assert_array_equal(heard.reshape(2, -1), alone)


def test_a_stream_that_begins_anew_forgets(small, compiled, noise):
    code, hop = compiled(small), small.enhancer.hop_length
    state, samples = code.state(), noise[: 40 * hop].reshape(-1, hop)
    ctypes.memset(state, 0x5A, len(state))
    call(code, "init", state)
    heard = np.empty_like(samples)
    for source, target in zip(samples, heard):
        call(code, "process", state, pointer(source), pointer(target))
    np.testing.assert_array_equal(heard.ravel(), stream_of(compiled(small)).process(samples.ravel()))


def test_samples_of_16_bits(small, compiled, noise):
    """In their own place, rounded to the nearest, and limited."""
    code, hop = compiled(small), small.enhancer.hop_length
    pcm = np.clip(np.rint(noise[: 60 * hop] * 2**16), -(2**15), 2**15 - 1).astype(np.int16)
    exact = stream_of(compiled(small)).process(pcm.astype(np.float32) / 2**15)
    state, heard = code.state(), pcm.reshape(-1, hop).copy()
    for samples in heard:
        call(code, "process_int16", state, pointer(samples), pointer(samples))
    np.testing.assert_array_equal(heard.ravel(), np.clip(np.rint(exact * 2**15), -(2**15), 2**15 - 1))


def test_the_header_says_how_large_a_state_is(small, compiled):
    header = (small.path / f"{small.name}.h").read_text()
    stated = int(re.search(r"/\* ([\d,]+) bytes", header)[1].replace(",", ""))
    assert stated == compiled(small).library.state_size()
    signal = {"SAMPLE_RATE": 16000, "HOP": small.enhancer.hop_length, "LATENCY": small.enhancer.latency}
    for name, value in signal.items():
        assert f"#define {small.name.upper()}_{name} {value} " in header


def test_every_layer_is_found_by_its_name(small):
    text = small.source.read_text()
    network = text[text.index("static void network(") :]
    for op in small.network.program.ops:
        if op.kind == "conv":
            assert f"convolve(&{op.output.replace('.', '_')}, " in network
            assert f"/* {op.output}: (" in text  # its shapes, beside its weights
    commented = re.findall(r"/\* .* -> \S+ \(\d+, \d+\), scale \S+, zero -?\d+ \*/\n    \w+\(", network)
    assert len(commented) == len(re.findall(r"^    (?:convolve|add|multiply|mean|interleave)\(", network, re.MULTILINE))


@pytest.mark.parametrize("name", ["my-model", "2mics", "a b", "früh", "", "x.y"])
def test_names_that_no_function_has(small, tmp_path, name):
    graph = IntegerGraph(small.network, small.enhancer.core)
    with pytest.raises(UserError, match=f"name={name}: is no C identifier"):
        write(graph, tmp_path / f"{name}_c", {})
    assert not list(tmp_path.iterdir())


def test_sums_that_would_overflow_are_refused(small, monkeypatch):
    monkeypatch.setattr(program, "_unit", lambda ratio: 2**24)
    with pytest.raises(UserError, match=r"encoder.0.first: sums of \d+ products do not fit into 32 bits"):
        IntegerGraph(small.network, small.enhancer.core)
