"""A .tflite file streams what the PyTorch model streams, with the graph's names in the graph's order."""

import json
import sys
import zipfile

import numpy as np
import pytest
import soundfile
import torch
from torch import nn

from gtcrn.errors import UserError
from gtcrn.export.graph import Graph
from gtcrn.export.metadata import Weights, describe
from gtcrn.export.writers import litert
from gtcrn.export.writers.litert import write
from gtcrn.models import micro
from gtcrn.runtime.denoiser import Denoiser

pytest.importorskip("litert_torch")


@pytest.fixture(scope="module")
def enhancer():
    torch.manual_seed(0)
    return micro.build(channels=4, stacks=1, blocks=1, transposed=False, decoder_groups=None).eval()


@pytest.fixture(scope="module")
def graph(enhancer):
    return Graph(enhancer, "spectrum")


@pytest.fixture(scope="module")
def file(graph, enhancer, tmp_path_factory):
    path = tmp_path_factory.mktemp("litert") / "micro.tflite"
    write(graph, path, describe(graph, enhancer, Weights("a test", "MIT")).metadata())
    return path


@torch.inference_mode()
def test_streams_as_pytorch_does(file, enhancer, recordings):
    noisy = soundfile.read(recordings / "vctk_demand_mini" / "noisy" / "p287_001.wav", dtype="float32")[0][: 60 * 256]
    expected = enhancer(torch.from_numpy(noisy)[None], enhancer.initial_state(1))[0][0].numpy()
    np.testing.assert_allclose(Denoiser(file).process(noisy), expected, atol=1e-5)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("channels", [1, 3])
def test_products_of_four_dimensions_are_converted(channels, bias):
    """UL-UNAS's bands are those of one spectrum, GTCRN's of three."""
    import litert_torch

    layer, x = nn.Linear(20, 9, bias=bias), torch.randn(1, channels, 1, 20)
    converted = litert_torch.convert(litert._Convertible(layer), (x,))
    np.testing.assert_allclose(converted(x), layer(x).detach().numpy(), atol=1e-5)


def test_names_and_order_are_the_graphs(file, graph):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(file))
    (signature,) = interpreter.get_signature_list().values()
    for side, details, names in (
        ("inputs", interpreter.get_input_details(), graph.input_names),
        ("outputs", interpreter.get_output_details(), graph.output_names),
    ):
        assert [tensor["name"] for tensor in details] == names
        assert sorted(signature[side]) == sorted(names)
    shapes = [tuple(tensor["shape"]) for tensor in interpreter.get_input_details()]
    assert shapes == [tuple(x.shape) for x in graph.example()]


def test_says_what_it_is(file):
    with zipfile.ZipFile(file) as archive:
        assert archive.namelist() == ["metadata.json"]
        metadata = json.loads(archive.read("metadata.json"))
    assert (metadata["kind"], metadata["licence"]) == ("spectrum", "MIT")


def test_what_can_not_be_converted_is_one_line_and_leaves_nothing(monkeypatch, tmp_path, graph):
    def convert(*_):
        raise ValueError("no such operator\nand many more lines")

    monkeypatch.setattr("litert_torch.convert", convert)
    with pytest.raises(UserError, match=r"^x.tflite: .*LiteRT \(no such operator\); use format=onnx$"):
        write(graph, tmp_path / "x.tflite", {})
    monkeypatch.setitem(sys.modules, "litert_torch", None)
    with pytest.raises(UserError, match=r"litert-torch: pip install -e '.\[litert\]'"):
        write(graph, tmp_path / "x.tflite", {})
    assert not list(tmp_path.iterdir())
