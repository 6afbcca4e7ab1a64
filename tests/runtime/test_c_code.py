"""Folders of C as streams: what is missing, damaged or does not compile is told in a line."""

import shutil

import numpy as np
import pytest
from fixtures.integers import tiny

from gtcrn.errors import UserError
from gtcrn.export.c.writer import IntegerGraph, write
from gtcrn.export.metadata import Weights, describe
from gtcrn.quantization.calibration import quantize_enhancer
from gtcrn.runtime.c_code import CDenoiser, compiler_name
from gtcrn.runtime.integrity import seal_folder

pytestmark = pytest.mark.skipif(not shutil.which("cc"), reason="cc is missing, which compiles C")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    enhancer = tiny()
    noise = np.random.default_rng(0).normal(0, 0.1, 8000).astype(np.float32)
    graph = IntegerGraph(quantize_enhancer(enhancer, "int8", [noise]), enhancer.core)
    path = tmp_path_factory.mktemp("c") / "tiny_c"
    write(graph, path, describe(graph, enhancer, Weights("a test", "MIT")).metadata())
    return path


@pytest.fixture
def copied(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "tiny_c")


def test_blocks_of_any_size(folder):
    stream = CDenoiser(folder)
    assert (stream.sample_rate, stream.hop_length, stream.latency) == (16000, 32, 32)
    wave = np.random.default_rng(1).normal(0, 0.1, 640).astype(np.float32)
    whole = stream.process(wave)
    stream.reset()
    np.testing.assert_array_equal(np.concatenate([stream.process(part) for part in np.split(wave, [7, 200])]), whole)
    assert np.abs(whole).max() > 0.01


def test_names_the_compiler(monkeypatch):
    assert any(digit in compiler_name() for digit in "0123456789")
    monkeypatch.setenv("CC", "cc -m64")
    assert "cc" in compiler_name() or "clang" in compiler_name()


def _without_header(path):
    (path / "tiny.h").unlink()


def _with_two_files(path):
    (path / "other.h").touch()


def _changed(path):
    with (path / "tiny.c").open("a") as file:
        file.write("\n")


def _not_c(path):
    (path / "tiny.c").write_text("int main(;\n")
    metadata = {"kind": "wave", "sample_rate": "16000", "n_fft": "64", "hop_length": "32", "latency": "32"}
    seal_folder(path, metadata, ("tiny.h", "tiny.c"))


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (_without_header, "a folder of task=export format=c is needed, with NAME.c, NAME.h and metadata.json"),
        (_with_two_files, "a folder of task=export format=c is needed"),
        (_changed, "damaged, or changed since it was exported"),
        (_not_c, "does not compile: .*error"),
        (shutil.rmtree, "a folder of task=export format=c is needed"),
    ],
)
def test_bad_folders(copied, spoil, complaint):
    spoil(copied)
    with pytest.raises(UserError, match=complaint) as told:
        CDenoiser(copied)
    assert str(copied) in str(told.value) and "\n" not in str(told.value)


def test_without_a_compiler(folder, monkeypatch):
    monkeypatch.setenv("CC", "no-such-cc -O2")
    with pytest.raises(UserError, match="no-such-cc: no such C compiler, which format=c needs; install gcc or clang"):
        CDenoiser(folder)
