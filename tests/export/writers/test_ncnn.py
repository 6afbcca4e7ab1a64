"""A folder for ncnn streams in its Python package what the PyTorch model streams."""

import json
import sys

import numpy as np
import pytest
import soundfile
import torch

from gtcrn.errors import UserError
from gtcrn.export.graph import Graph
from gtcrn.export.metadata import Weights, describe
from gtcrn.export.optimize import optimized
from gtcrn.export.writers.ncnn import write
from gtcrn.models import dtln, gtcrn, micro
from gtcrn.runtime.integrity import seal_folder
from gtcrn.runtime.ncnn import BIN, PARAM, NcnnDenoiser

pytest.importorskip("ncnn")
FILES = ["metadata.json", "model.ncnn.bin", "model.ncnn.param"]


@pytest.fixture(scope="module")
def enhancer():
    torch.manual_seed(0)
    return micro.build(channels=4, stacks=1, blocks=2, transposed=False, decoder_groups=None).eval()


@pytest.fixture(scope="module")
def folder(enhancer, tmp_path_factory):
    path = tmp_path_factory.mktemp("ncnn") / "micro_ncnn"
    graph = Graph(enhancer, "spectrum")
    write(graph, path, describe(graph, enhancer, Weights("a test", "MIT")).metadata())
    return path


@torch.inference_mode()
def test_streams_as_pytorch_does(folder, enhancer, recordings):
    noisy = soundfile.read(recordings / "vctk_demand_mini" / "noisy" / "p287_001.wav", dtype="float32")[0][: 60 * 256]
    runner = NcnnDenoiser(folder)
    assert (runner.sample_rate, runner.hop_length, runner.latency) == (16000, 256, 256)
    expected = enhancer(torch.from_numpy(noisy)[None], enhancer.initial_state(1))[0][0].numpy()
    blocks = np.split(noisy, [1, 256, 1000, 9000])
    for _ in range(2):
        streamed = np.concatenate([runner.process(block) for block in blocks])
        np.testing.assert_allclose(streamed, expected, atol=1e-5)  # 16 bits would differ by 1e-3
        runner.reset()


@torch.inference_mode()
def test_recurrences_are_rewritten_for_it(tmp_path):
    torch.manual_seed(0)
    enhancer = gtcrn.build(channels=4, dpgrnn_count=1, hidden_size=8).eval()
    for parameter in enhancer.parameters():
        parameter += 0.1 * torch.randn_like(parameter)  # norms that scale
    graph = Graph(optimized(enhancer), "spectrum")
    write(graph, tmp_path / "gtcrn_ncnn", describe(graph, enhancer, Weights("", "")).metadata())
    noisy = 0.1 * torch.randn(1, 10 * 256)
    streamed = NcnnDenoiser(tmp_path / "gtcrn_ncnn").process(noisy[0].numpy())
    expected = enhancer(noisy, enhancer.initial_state(1))[0][0].numpy()
    np.testing.assert_allclose(streamed, expected, atol=1e-6)


def test_holds_three_files_and_says_what_it_is(folder):
    assert sorted(file.name for file in folder.iterdir()) == FILES
    metadata = json.loads((folder / "metadata.json").read_text())
    assert (metadata["kind"], metadata["licence"]) == ("spectrum", "MIT")


def test_what_ncnn_has_no_layer_for_is_named_and_nothing_is_left(tmp_path):
    enhancer = dtln.build(lstm_size=4, layers=1, basis_size=8, n_fft=32, hop_length=8)
    graph = Graph(enhancer, "wave")  # with FFT operators
    with pytest.raises(UserError, match="ncnn has no layer for .*torch.fft.rfft.* of DTLN; use format=onnx_wave"):
        write(graph, tmp_path / "dtln_ncnn", describe(graph, enhancer, Weights("", "")).metadata())
    assert not list(tmp_path.iterdir())


def test_folders_that_do_not_fit_are_named(tmp_path, folder):
    with pytest.raises(UserError, match="nowhere: holds no model.ncnn.param, model.ncnn.bin, metadata.json"):
        NcnnDenoiser(tmp_path / "nowhere")
    for name in FILES:
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    for wrong in ("", "no JSON", "[]", "{}", '{"states": "[]", "sample_rate": "many"}'):
        (tmp_path / "metadata.json").write_text(wrong)
        with pytest.raises(UserError, match="metadata.json: damaged, or not written by task=export"):
            NcnnDenoiser(tmp_path)
    for wrong in ({}, {"states": "none"}, {"states": "[]"}):
        seal_folder(tmp_path, wrong, (PARAM, BIN))
        with pytest.raises(UserError, match="metadata.json: does not say how|sample_rate=not stated"):
            NcnnDenoiser(tmp_path)
    metadata = json.loads((folder / "metadata.json").read_text())
    (tmp_path / "model.ncnn.param").write_text("7767517\n1 1\nWaveNet in0 0 1 in0\n")
    (tmp_path / "metadata.json").write_text(json.dumps(metadata))
    del metadata["sha256"]
    with pytest.raises(UserError, match="its SHA-256 is another"):
        NcnnDenoiser(tmp_path)
    seal_folder(tmp_path, metadata, (PARAM, BIN))
    with pytest.raises(UserError, match="damaged, or of another version of ncnn"):
        NcnnDenoiser(tmp_path)


@pytest.mark.parametrize("package", ["pnnx", "ncnn"])
def test_missing_packages_are_one_line(monkeypatch, tmp_path, folder, enhancer, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=rf"{package}: pip install -e '.\[ncnn\]'"):
        if package == "ncnn":
            NcnnDenoiser(folder)
        write(Graph(enhancer, "spectrum"), tmp_path / "micro_ncnn", {})
