"""Our files in sherpa-onnx as it comes from its authors, against our own stream and our own whole utterances."""

import copy

import numpy as np
import pytest
import torch

from gtcrn.dsp.stft import STFT
from gtcrn.errors import UserError
from gtcrn.export.optimize import optimized
from gtcrn.export.writers.sherpa_onnx import PackedGraph
from gtcrn.models import fastenhancer
from gtcrn.runtime.sherpa_onnx import SherpaDenoiser

sherpa_onnx = pytest.importorskip("sherpa_onnx")

SYSTEMS = ("gtcrn", "light_v3", "micro")


def model_of(path):
    gtcrn = sherpa_onnx.OfflineSpeechDenoiserGtcrnModelConfig(str(path))
    return sherpa_onnx.OfflineSpeechDenoiserModelConfig(gtcrn=gtcrn)


@torch.inference_mode()
def whole(enhancer, wave, padding):
    enhancer = copy.copy(enhancer)
    enhancer.padding = padding
    return enhancer(torch.from_numpy(wave)[None])[0][0].numpy()


@pytest.mark.parametrize("name", SYSTEMS)
@pytest.mark.slow
def test_online_denoiser_is_our_stream(exported, system, noisy, name):
    """In blocks of any length: without the delay, and as long as the recording."""
    config = sherpa_onnx.OnlineSpeechDenoiserConfig(model_of(exported(name, "sherpa_onnx")))
    denoiser = sherpa_onnx.OnlineSpeechDenoiser(config)
    pieces = [denoiser.run(noisy[start : start + 1000], 16000).samples for start in range(0, len(noisy), 1000)]
    pieces.append(denoiser.flush().samples)
    enhanced, expected = np.concatenate(pieces), whole(system(name), noisy, "zeros")
    assert len(enhanced) == len(noisy)
    assert np.abs(enhanced - expected).max() <= 1e-4
    assert np.abs(noisy - expected).max() > 1e-2  # there is something to compare


@pytest.mark.parametrize("name", SYSTEMS)
def test_offline_denoiser_is_padding_reflect(exported, system, noisy, name):
    """But for the last incomplete hop, which it leaves out."""
    config = sherpa_onnx.OfflineSpeechDenoiserConfig(model_of(exported(name, "sherpa_onnx")))
    enhanced = np.array(sherpa_onnx.OfflineSpeechDenoiser(config).run(noisy, 16000).samples)
    assert len(enhanced) == len(noisy) // 256 * 256
    assert np.abs(enhanced - whole(system(name), noisy, "reflect")[: len(enhanced)]).max() <= 1e-4


def test_a_runner_begins_anew(exported, noisy):
    runner = SherpaDenoiser(exported("light_v3", "sherpa_onnx"))
    assert (runner.sample_rate, runner.hop_length, runner.latency) == (16000, 256, 0)
    first = runner.process(noisy[:5120])
    assert len(first) == 5120 - 256
    runner.reset()
    np.testing.assert_array_equal(runner.process(noisy[:5120]), first)


def test_models_that_sherpa_onnx_cannot_run_are_refused():
    enhancer = fastenhancer.build().eval()
    with pytest.raises(UserError, match="^window=hann: sherpa-onnx restores signals only under .*; use format=onnx$"):
        PackedGraph(optimized(enhancer), "spectrum")
    enhancer.framing = STFT()
    with pytest.raises(UserError, match="FastEnhancer: has no states for tra_cache and inter_cache.*; use format=onnx"):
        PackedGraph(enhancer, "spectrum")
