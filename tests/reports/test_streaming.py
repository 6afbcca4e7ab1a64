"""Streams measured: the same signal as at once, later by the latency, and numbers that add up."""

import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from fixtures.weights import stated

from gtcrn.data import audio
from gtcrn.errors import UserError
from gtcrn.models import light_v3
from gtcrn.models.enhancer import Enhancer
from gtcrn.models.pretrained import CORE_PREFIX, RECORD
from gtcrn.profiling.cost import measure
from gtcrn.reports.streaming import (
    StreamResult,
    agreement,
    delay_figure,
    delays,
    enhance_in_chunks,
    enhance_whole,
    enhancers,
    noisy_inputs,
    stream_figure,
    times_figure,
    timing,
)

WAVE = np.random.default_rng(0).normal(0, 0.1, 7777).astype(np.float32)


@pytest.fixture(scope="module")
def enhancer() -> Enhancer:
    torch.manual_seed(0)
    return light_v3.build(width_mult=0.5, padding="reflect").eval()


@pytest.mark.parametrize("hops", [1, 3])
def test_a_stream_is_the_whole_only_later(enhancer, hops):
    run = enhance_in_chunks(enhancer, WAVE, hops)
    at_once = enhance_whole(enhancer, WAVE)
    assert run.aligned.shape == at_once.shape == WAVE.shape
    assert np.abs(run.aligned - at_once).max() < 1e-6
    late = enhancer.latency
    assert np.array_equal(run.output[late : late + len(WAVE)], run.aligned)
    assert run.chunk == 256 * hops and len(run.milliseconds) == -(-(7777 + late) // (256 * hops))
    assert enhancer.padding == "reflect", "only a copy has zeros beyond the ends"


def test_lost_state_shows(enhancer):
    table = agreement(enhancer, WAVE, hops=(1, 2))
    assert table.index.tolist() == [1, 2] and (table["largest difference"] < 1e-6).all()
    initial_state = enhancer.initial_state
    enhancer.initial_state = lambda batch: {**initial_state(batch), "synthesis": torch.ones(batch, 256)}
    assert (agreement(enhancer, WAVE, hops=(1,))["largest difference"] < 1e-6).all(), "it was before the beginning"
    enhancer.initial_state = lambda batch: {**initial_state(batch), "analysis": torch.ones(batch, 256)}
    assert (agreement(enhancer, WAVE, hops=(1,))["largest difference"] > 1e-3).all()
    del enhancer.initial_state


def test_what_is_forgotten_has_no_influence(enhancer):
    """The first chunk is as in any stream; a later one is as if the core had heard nothing before."""
    chunk = 4 * enhancer.hop_length
    remembering, forgetting = (enhance_in_chunks(enhancer, WAVE, 4, forget).output for forget in (False, True))
    assert np.array_equal(remembering[:chunk], forgetting[:chunk])
    assert np.abs(remembering[chunk : 2 * chunk] - forgetting[chunk : 2 * chunk]).max() > 1e-5


def test_numbers_of_hops():
    times = np.array([1.0] * 98 + [20.0, 40.0])
    numbers = timing(StreamResult(WAVE, WAVE, times, chunk=256, latency=256, sample_rate=16000))
    assert (numbers["chunk, ms"], numbers["median, ms"], numbers["longest, ms"]) == (16, 1, 40)
    assert numbers["too late, %"] == 2
    assert numbers["real-time factor"] == pytest.approx(1.58 / 16)


def test_the_delay_is_the_sum_of_its_parts(enhancer):
    offline = light_v3.build(causal=False)
    costs = {"streams": measure(enhancer), "looks ahead": measure(offline)}
    table = delays(costs)
    parts = table.loc["streams", ["waiting for a whole hop", "overlap of windows", "look-ahead"]]
    assert parts.tolist() == pytest.approx([16, 16, 0])
    assert table.loc["looks ahead", "look-ahead"] == pytest.approx(352)
    assert table["total"].to_list() == pytest.approx([32 + costs["streams"].compute_ms, 384])
    figure, _ = delay_figure(costs)
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["looks ahead", "streams"]
    with pytest.raises(UserError, match="ahead"):
        enhance_in_chunks(offline, WAVE)


def test_figures_of_streams(enhancer):
    run = enhance_in_chunks(enhancer, WAVE)
    figure, caption = stream_figure(WAVE, enhance_whole(enhancer, WAVE), run)
    assert "16 ms late" in caption
    loud, difference = figure.axes[1].patches
    assert np.max(difference.get_data().values) < -110 < -60 < np.max(loud.get_data().values)
    assert times_figure({}) is None
    figure, _ = times_figure({"model": run})
    line, deadline = figure.axes[0].lines
    assert line.get_ydata()[0] == 100 and deadline.get_xdata() == [16, 16]


def test_models_and_inputs_of_runs(tmp_path, enhancer, register):
    weights = {CORE_PREFIX + key: value for key, value in enhancer.core.state_dict().items()}
    record = {"model": {"build": "gtcrn.models.light_v3.build", "knobs": {"width_mult": 0.5}}}
    trained = tmp_path / "outputs/train/checkpoints/best.ckpt"
    trained.parent.mkdir(parents=True)
    torch.save({RECORD: record, "state_dict": weights}, trained)
    for run in ("train/test", "evaluate"):
        for name in ("a", "b"):
            for role in ("noisy", "enhanced"):
                audio.write(tmp_path / f"outputs/{run}/{role}/{name}.wav", WAVE, 16000, subtype="FLOAT")
        (tmp_path / f"outputs/{run}/scores.csv").write_text("name,snr\na,1\nb,2\n")
    register(mine={"file": "mine.ckpt", **stated(trained.read_bytes())})
    shutil.copy(trained, tmp_path / "package" / "mine.ckpt")
    runs = pd.DataFrame({
        "run": ["train", "evaluate", "moved", "named"],
        "path": [str(tmp_path / f"outputs/{run}") for run in ("train", "evaluate", "moved", "named")],
        "ckpt": [None, "outputs/train/checkpoints/best.ckpt", "nowhere.ckpt", "mine"],
    })  # fmt: skip
    found = enhancers(runs)
    assert list(found) == ["train", "evaluate", "named"], "the evaluated file lies where the command was typed"
    assert np.array_equal(enhance_whole(found["evaluate"], WAVE), enhance_whole(enhancer, WAVE))
    inputs = noisy_inputs(runs[:2], seconds=0.25)
    assert all(np.array_equal(wave, WAVE[:4000]) for wave in inputs.values()) and len(inputs) == 2
    with pytest.raises(UserError, match="the weights of none of these 1 runs are there"):
        enhancers(runs[2:3])
    (tmp_path / "outputs/evaluate/scores.csv").write_text("name,snr\n")
    with pytest.raises(UserError, match="evaluate: no noisy audio of a file in its scores.csv"):
        noisy_inputs(runs[:2], seconds=1)
