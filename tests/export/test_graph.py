"""One step with flat states is the stream."""

import pytest
import torch

from gtcrn.errors import UserError
from gtcrn.export.graph import Graph, kinds
from gtcrn.export.writers.sherpa_onnx import CACHES, PackedGraph
from gtcrn.models import light_v3, ulunas


@torch.inference_mode()
def run(graph: Graph, xs: torch.Tensor) -> torch.Tensor:
    x, *states = graph.example()
    outputs = []
    for x in xs:
        y, *states = graph(x, *states)
        outputs.append(y)
    return torch.cat(outputs)


@torch.inference_mode()
@pytest.mark.parametrize("name", ["light_v3", "micro_int8", "tiny", "timbre_light"])
def test_a_graph_is_the_stream(system, name):
    enhancer = system(name).double()
    wave = 0.1 * torch.randn(20 * enhancer.hop_length, dtype=torch.float64)
    streamed, _ = enhancer(wave[None], enhancer.initial_state(1))
    hops = wave.reshape(20, 1, -1)
    torch.testing.assert_close(run(Graph(enhancer, "wave"), hops).flatten(), streamed[0])
    if "spectrum" in kinds(enhancer):
        spectra, _ = enhancer.framing.analysis(wave[None], enhancer.framing.initial_state(1))
        expected, _ = enhancer.core(spectra, enhancer.core.initial_state(1))
        frames = spectra.permute(2, 0, 3, 1)[:, :, :, None]  # (T, 1, F, 1, 2)
        for graph in (Graph(enhancer, "spectrum"), PackedGraph(enhancer, "spectrum")):
            given = run(graph, frames)  # (T, F, 1, 2)
            torch.testing.assert_close(given[:, :, 0].permute(2, 0, 1), expected[0])


@pytest.mark.parametrize("graph", [Graph, PackedGraph])
def test_names_and_shapes(system, graph):
    graph = graph(system("light_v3"), "spectrum")
    assert graph.input_names[0] == "input" and graph.output_names[0] == "output"
    assert graph.output_names[1:] == [f"next_{name}" for name in graph.input_names[1:]]
    example = graph.example()
    assert example[0].shape == (1, 257, 1, 2) and not any(x.any() for x in example)
    assert [x.shape for x in example] == [y.shape for y in graph(*example)]
    assert len(example) == len(graph.input_names)


def test_states_are_packed_by_kind(system):
    graph = PackedGraph(system("light_v3"), "spectrum")
    whole = Graph(system("light_v3"), "spectrum").states
    assert tuple(graph.states) == CACHES
    assert graph.states["tra_cache"].shape == (1, 6 * 12 * 2)  # six gates of twelve channels remember two frames
    assert graph.states["inter_cache"].shape == (1, 2 * 33 * 9)
    assert sum(state.numel() for state in graph.states.values()) == sum(state.numel() for state in whole.values())


def test_what_has_no_graph_is_named(system):
    with pytest.raises(UserError, match="layer 'encoder.2.ds' looks 1 frame"):
        Graph(light_v3.build(causal=False), "wave")
    with pytest.raises(UserError, match="hop_length=128, n_fft=512: sherpa-onnx streams only frames that overlap by"):
        PackedGraph(light_v3.build(hop_length=128), "spectrum")
    with pytest.raises(UserError, match="window=hann: sherpa-onnx restores signals only under the square root"):
        PackedGraph(ulunas.build(), "spectrum")
