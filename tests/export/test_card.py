"""The card: every program on it does what it says, every number is where it belongs."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from gtcrn.errors import UserError
from gtcrn.export import card
from gtcrn.export.formats import FORMATS
from gtcrn.export.metadata import Weights, describe
from gtcrn.export.proof import Proof
from gtcrn.export.writers.sherpa_onnx import PackedGraph
from gtcrn.runtime.facts import ModelFacts, Signal
from gtcrn.web import serving


def program(path: Path, language: str) -> str:
    words = (path.parent / (path.name + card.SUFFIX)).read_text()
    return re.search(rf"```{re.escape(language)}\n(.*?)```", words, re.DOTALL)[1]


@torch.inference_mode()
def streamed(enhancer, wave):
    return enhancer(torch.from_numpy(wave)[None], enhancer.initial_state(1))[0][0].numpy()


@pytest.mark.parametrize(
    ("name", "format", "package"),
    [
        ("tiny", "onnx_wave", "onnxruntime"),
        ("tiny", "litert", "litert_torch"),
        ("tiny", "ncnn", "ncnn"),
        ("tiny", "pt2", "torch"),
    ],
)
@pytest.mark.slow
def test_python(exported, system, noisy, monkeypatch, name, format, package):
    pytest.importorskip(package)
    path, enhancer = exported(name, format), system(name)
    monkeypatch.chdir(path.parent)  # the program names the file alone
    names = {}
    exec(program(path, "python"), names)
    wave = noisy[16000 : 16000 + 40 * enhancer.hop_length]
    heard = np.concatenate([names["denoise"](hop) for hop in wave.reshape(-1, enhancer.hop_length)])
    assert heard.dtype == np.float32
    assert np.abs(heard - streamed(enhancer, wave)).max() <= 1e-4


@pytest.mark.slow
def test_python_of_spectra(exported, system, noisy, tmp_path, monkeypatch):
    """With sherpa-onnx's file, which is one of format=onnx with other states."""
    path, enhancer = exported("light_v3", "sherpa_onnx"), system("light_v3")
    facts = describe(PackedGraph(enhancer, "spectrum"), enhancer, Weights("", ""))
    words = card.text(path.name, "onnx", "", facts, Proof(0, 1, 1, 1, 99), 1, "", "", "")
    (tmp_path / (path.name + card.SUFFIX)).write_text(words)
    monkeypatch.chdir(path.parent)
    names = {}
    exec(program(tmp_path / path.name, "python"), names)
    wave = noisy[: 40 * 256]
    heard = np.concatenate([names["denoise"](hop) for hop in wave.reshape(-1, 256)])
    assert np.abs(heard - streamed(enhancer, wave)).max() <= 1e-4


def test_python_of_sherpa_onnx(exported, system, noisy, monkeypatch):
    pytest.importorskip("sherpa_onnx")
    path, enhancer = exported("light_v3", "sherpa_onnx"), system("light_v3")
    monkeypatch.chdir(path.parent)
    names = {}
    exec(program(path, "python"), names)
    heard = names["denoise"](noisy[: 40 * 256])
    assert np.abs(heard - streamed(enhancer, noisy[: 40 * 256])[256:]).max() <= 1e-4


@pytest.mark.skipif(not shutil.which("node"), reason="node is not installed")
@pytest.mark.skipif(not serving.is_installed(), reason="onnxruntime-web is not installed: task=serve does it")
def test_javascript(exported, system, noisy, tmp_path):
    path, enhancer = exported("tiny", "onnx_wave"), system("tiny")
    shutil.copy(path, tmp_path)
    (tmp_path / "node_modules").symlink_to(serving.NPM / "node_modules")
    wave = noisy[16000 : 16000 + 40 * 16]
    script = (
        program(path, "javascript")
        + f"""
const wave = {json.dumps(wave.tolist())}, heard = [];
for (let start = 0; start < wave.length; start += 16)
  heard.push(...await step(Float32Array.from(wave.slice(start, start + 16))));
console.log(JSON.stringify(heard));
"""
    )
    (tmp_path / "program.mjs").write_text(script)
    done = subprocess.run(["node", "program.mjs"], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert np.abs(np.array(json.loads(done.stdout.splitlines()[-1])) - streamed(enhancer, wave)).max() <= 1e-4


@pytest.mark.skipif(not shutil.which("g++"), reason="g++ is not installed")
def test_cpp_of_sherpa_onnx_compiles(exported, tmp_path):
    sherpa_onnx = pytest.importorskip("sherpa_onnx")
    (tmp_path / "program.cc").write_text(program(exported("light_v3", "sherpa_onnx"), "c++"))
    include = Path(sherpa_onnx.__file__).parent / "include"
    command = ["g++", "-std=c++17", "-fsyntax-only", "-Wall", "-Werror", "-I", include, tmp_path / "program.cc"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("format", [*FORMATS, "my_format"])
def test_card(format):
    states = {"state.core.first": [1, 2, 3], "state.core.second": [1, 4]}
    facts = ModelFacts("DTLN", Signal("wave", 16000, 512, 128, 384, "none"), states, "CC0", "made up", "0123abc")
    words = card.text(
        "x.file",
        format,
        "my_format:Stream",
        facts,
        Proof(2e-6, 99, 0.5, 0.75, 99),
        123456,
        "engine 1.2",
        "a test",
        "Good.",
    )
    for told in (
        "# DTLN: x.file",
        "16000 Hz, one channel, 128 samples (8 ms)",
        "| made up |",
        "| CC0 |",
        "| 123 kB |",
        "revision 0123abc",
        "at most 2.0e-06 from the PyTorch model (allowed: 0.0001), over 99 frames of a test",
        "32 ms: 8 ms until a hop is complete, 24 ms",
        "median 0.50 ms, 95 % below 0.75 ms; engine 1.2",
        card.machine(),
        "\nGood.\n",
        "| `input` | `output` | [1, 128] |",
        "| `state.core.first` | `next_state.core.first` | [1, 2, 3] |",
        "```python",
    ):
        assert told in words
    assert "$" not in words.replace("${", "")
    assert ("from my_format import Stream" in words) == (format in ("c", "my_format"))
    programs = re.findall(r"```\S+\n(.*?)```", words, re.DOTALL)
    assert programs and all(len(line) <= 120 for code in programs for line in code.splitlines())


def test_scores(tmp_path):
    checkpoint = tmp_path / "checkpoints" / "best.ckpt"
    assert card.scores_of(checkpoint, "PESQ 3 somewhere") == "PESQ 3 somewhere."
    unknown = card.scores_of(checkpoint, "")
    assert "Not known" in unknown and "task=evaluate ckpt=" in unknown
    summary = tmp_path / "summary.json"
    summary.write_text(json.dumps({"test": {"noisy_pesq_wb": 1.97, "enhanced_pesq_wb": 2.874, "enhanced_stoi": 0.94}}))
    scores = card.scores_of(checkpoint, "")
    assert "| PESQ-wb | 1.97 | 2.87 |" in scores and "| STOI | nan | 0.940 |" in scores
    assert card.scores_of(checkpoint.with_name("last.ckpt"), "") == unknown  # the best was tested
    summary.write_text(json.dumps({"test": {}}))
    assert card.scores_of(checkpoint, "") == unknown
    summary.write_text("{")
    with pytest.raises(UserError, match="summary.json: damaged"):
        card.scores_of(checkpoint, "")
