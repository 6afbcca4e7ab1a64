"""The report on integers: every number is of what it says, and a layer that costs much is seen."""

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch

from gtcrn.export.metadata import Weights, describe
from gtcrn.models import micro
from gtcrn.profiling import quantization_report
from gtcrn.profiling.quantization import FLOAT, WEIGHTS, Comparison, Variant, layer_errors, measure, work
from gtcrn.quantization import calibration

pytestmark = pytest.mark.slow

pytest.importorskip("ai_edge_litert")


@pytest.fixture(scope="module")
def pairs(recordings):
    folder = recordings / "vctk_demand_mini"
    names = ["p287_001.wav", "p287_003.wav"]
    return {
        name: tuple(soundfile.read(folder / part / name, dtype="float32")[0][:32000] for part in ("noisy", "clean"))
        for name in names
    }


@pytest.fixture(scope="module")
def enhancer():
    torch.manual_seed(0)
    return micro.build(channels=4, stacks=1, blocks=2).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def variants(enhancer, pairs, tmp_path_factory):
    from gtcrn.export.writers import flatbuffer

    folder, found = tmp_path_factory.mktemp("quantized"), []
    for quantize in ("int8", "int16x8"):
        network = calibration.quantize_enhancer(enhancer, quantize, [noisy for noisy, _ in pairs.values()])
        graph = flatbuffer.IntegerGraph(network, enhancer.core)
        facts = describe(graph, enhancer, Weights("a test", "MIT"))
        flatbuffer.write(graph, folder / f"{quantize}.tflite", facts.metadata())
        found.append(Variant(quantize, folder / f"{quantize}.tflite", network))
    return found


@pytest.fixture(scope="module")
def report(enhancer, variants, pairs):
    return measure(enhancer, variants, pairs, workers=1)


def test_more_bits_are_nearer_to_float_at_every_level(report):
    summary = report.summary
    assert list(summary.index) == [FLOAT, "int8", "int16x8"]
    assert (summary.loc["int16x8"] > summary.loc["int8"] + 10)[["snr", "snr_min", "snr_0.1", "snr_2"]].all()
    assert (summary["snr_min"].iloc[1:] <= summary["snr"].iloc[1:]).all()
    assert np.isnan(summary.loc[FLOAT, "snr"]) and summary[["pesq_wb", "stoi", "si_sdr"]].notna().all(axis=None)
    assert (summary["integer_macs"].iloc[1:] == 1).all() and (summary["step_ms"].iloc[1:] > 0).all()


def test_operators_are_those_of_the_file(report, variants):
    assert not [kind for kind in report.operators.index if "float" in kind]
    assert report.operators["int8"].to_dict() == work(variants[0].path).operators


def test_a_coarse_layer_is_found(enhancer, variants, pairs):
    network, victim = variants[0].integers, "decoder.1.sum"
    waves = torch.from_numpy(np.stack([noisy[:16000] for noisy, _ in pairs.values()]))
    before = layer_errors(enhancer, network, waves)
    assert list(before.index) == [WEIGHTS, *network.program.owners()]
    scale = network.log_scale[victim.replace(".", "/")]
    scale.data += np.log(1000)
    try:
        after = layer_errors(enhancer, network, waves)
    finally:
        scale.data -= np.log(1000)
    assert after[victim] < before[victim] - 20
    others = before.index != victim
    np.testing.assert_allclose(after[others], before[others])
    assert network.quantized == set(network.program.owners()) and network.quantized_weights


def test_written_report(report, tmp_path):
    paths = quantization_report.write(report, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in paths)
    text = paths[0].read_text()
    assert f"| {report.summary.loc['int16x8', 'snr']:.1f} |" in text and "100 %" in text
    worst = report.layers["int8"].idxmin()
    assert f"{worst} {report.layers['int8'].min():.1f}" in text
    assert "# Integers beside the float model" in text and paths[-1].stat().st_size > 10_000


def test_the_worst_tensors_are_named_legibly_in_the_figure():
    names = [f"core.encoder.en_convs.{number}.point_conv1.weight" for number in range(60)]
    layers = pd.DataFrame({"one": np.linspace(60, 1, 60), "two": np.linspace(80, 70, 60)}, index=names)
    levels = {"snr": 20.0, "snr_0.1": 18.0, "snr_2": 19.0, "integer_macs": 0.9}
    summary = pd.DataFrame([levels], index=["onnx int8"])
    nothing = pd.DataFrame()
    figure = quantization_report.figure(Comparison(summary, nothing, nothing, layers, nothing))
    levels, tensors = figure.axes
    labels = tensors.get_yticklabels()
    assert [label.get_text() for label in labels] == names[:-17:-1], "the worst first"
    assert (
        min(label.get_fontsize() for label in labels) >= 8
        and tensors.get_title(loc="left") == "the 16 worst of 60 tensors"
    )
    figure.draw_without_rendering()
    extents = [label.get_window_extent() for label in labels]
    assert not any(one.overlaps(other) for one, other in zip(extents, extents[1:]))
    assert figure.bbox.x0 <= min(extent.x0 for extent in extents)
    assert all(panel.get_legend() and (panel.get_xlabel() or panel.get_ylabel()) for panel in figure.axes)
