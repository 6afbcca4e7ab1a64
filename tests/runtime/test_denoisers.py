"""Denoisers on waves of any rate, in any process, and the measurement that takes out their delay."""

import inspect
import multiprocessing
import os
import pickle
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hydra.utils import get_object
from omegaconf import OmegaConf
from scipy.signal import butter, sosfilt

import gtcrn
from gtcrn.data import audio
from gtcrn.dsp.alignment import Aligned, delay_of
from gtcrn.dsp.gate import SpectralGate
from gtcrn.errors import UserError
from gtcrn.runtime.denoisers import ModelDenoiser, deepfilternet, enhancer, onnx

RATE = 48000


@pytest.fixture(scope="module")
def speech(recordings):
    """Three utterances at 48 kHz."""
    files = sorted((recordings / "fullband_mini" / "speech").glob("*.wav"))[:3]
    return [soundfile.read(file, dtype="float32")[0][: 2 * RATE] for file in files]


@pytest.fixture(scope="module")
def checkpoint(references):
    return str(references / "gtcrn" / "dns3_epoch87.tar")


@pytest.fixture(scope="module")
def published(references):
    return str(references / "gtcrn" / "gtcrn_simple.onnx")


class Delayed:
    """A gate whose output is late by `delay` samples, or early."""

    def __init__(self, delay, gain=1.0):
        self.delay, self.gain, self.gate = delay, gain, SpectralGate(RATE)

    def __call__(self, wave):
        late, early = max(self.delay, 0), max(-self.delay, 0)
        return np.float32(self.gain) * np.pad(self.gate(wave), (late, early))[early : early + len(wave)]


@pytest.mark.parametrize("gain", [1.0, -0.5])
@pytest.mark.parametrize("delay", [0, 1, 137, 480, 4000, -37])
def test_delay_is_exact_and_taken_out(speech, delay, gain):
    aligned = Aligned(Delayed(delay, gain), speech, max_delay=4800)
    assert aligned.delay == delay
    wave = speech[0]
    padded = SpectralGate(RATE)(np.pad(wave, (max(-delay, 0), max(delay, 0))))[max(-delay, 0) :][: len(wave)]
    output = aligned(wave)
    assert output.dtype == np.float32
    np.testing.assert_array_equal(output, np.float32(gain) * padded)  # the last samples too


@pytest.mark.parametrize("delay", [0, 480])
def test_delay_survives_filters_and_a_lost_band(speech, checkpoint, delay):
    """What denoisers do beside denoising, in half a second of speech: turn phases, take the upper band away."""
    sections = butter(2, 80, "highpass", fs=RATE, output="sos")
    model = enhancer(checkpoint)
    for denoise in (lambda wave: sosfilt(sections, wave), model):
        late = [delay_of(lambda w: np.pad(denoise(w), (delay, 0))[: len(w)], wave[24000:48000]) for wave in speech]  # noqa: B023
        assert late == [delay] * len(speech)


def test_delays_of_models(speech, checkpoint, published):
    assert Aligned(enhancer(checkpoint), speech, max_delay=4800).delay == 0
    streamed = Aligned(onnx(published), speech, max_delay=4800)
    assert streamed.delay == 3 * 256  # its latency at 16 kHz


def test_a_streamed_model_aligned_is_the_offline_model(speech, references, published):
    wave = speech[0][:90001]
    offline = enhancer(str(references / "gtcrn" / "dns3_epoch96.tar"))
    difference = Aligned(onnx(published), speech[:2], max_delay=4800)(wave) - offline(wave)
    # the offline output breaks off before it is resampled, and rings for 20 ms; the stream's after
    assert np.abs(difference[:-1500]).max() < 1e-5 and np.abs(difference).max() < 0.01 * np.abs(wave).max()


def test_what_cannot_be_aligned_is_named(speech):
    def noise(wave):
        return np.random.default_rng(len(wave)).standard_normal(len(wave)).astype(np.float32)

    delays = iter((0, 1, 2))
    for denoise, complaint in (
        (lambda wave: Delayed(next(delays))(wave), r"3 waves of speech give \[0, 1, 2\] samples"),
        (noise, "waves of speech give"),
        (Delayed(4801), "late by 4801 samples, more than max_delay=4800"),
        (Delayed(-4801), "late by -4801 samples"),
        (np.zeros_like, "the output wave .* is silent"),
        (lambda wave: wave[1:], r"gives \(95999,\) for \(96000,\) samples"),
        (lambda wave: wave * np.nan, "not finite"),
    ):
        with pytest.raises(UserError, match=complaint):
            Aligned(denoise, speech, max_delay=4800)
    with pytest.raises(UserError, match="the given wave .* is silent"):
        Aligned(Delayed(0), [speech[0], 0 * speech[1]], max_delay=4800)
    for few in ([], speech[:1]):
        with pytest.raises(UserError, match="at least two waves"):
            Aligned(Delayed(0), few, max_delay=4800)


@pytest.mark.parametrize("make", ["enhancer", "onnx"])
def test_the_same_anywhere(request, speech, make):
    """Once more, pickled, with more threads, and in forked processes, where those threads are lost."""
    path = request.getfixturevalue({"enhancer": "checkpoint", "onnx": "published"}[make])
    denoise, wave = {"enhancer": enhancer, "onnx": onnx}[make](path), speech[0][:24000]
    expected = denoise(wave)
    assert expected.shape == wave.shape and expected.dtype == np.float32 and expected.flags.writeable
    assert len(pickle.dumps(denoise)) < 1000
    np.testing.assert_array_equal(denoise(wave), expected)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(denoise))(wave), expected)
    torch.set_num_threads(2)
    try:
        np.testing.assert_array_equal(denoise(wave), expected)
        torch.rand(2000, 2000) @ torch.rand(2000, 2000)  # the threads are there
        with multiprocessing.get_context("fork").Pool(2) as pool:
            for output in pool.map_async(denoise, [wave] * 2).get(timeout=20):
                np.testing.assert_array_equal(output, expected)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


def open_here():
    """A model that answers with the process that opened it."""
    process = os.getpid()
    return (lambda wave: np.full_like(wave, process)), RATE


def process_of(denoise):
    return int(denoise(np.zeros(10))[0]), os.getpid()


def test_every_process_opens_its_own():
    denoise = ModelDenoiser(open_here, RATE)
    assert process_of(denoise) == (os.getpid(), os.getpid())
    fork = multiprocessing.get_context("fork")
    results = fork.SimpleQueue()
    child = fork.Process(target=lambda: results.put(process_of(denoise)))
    child.start()
    child.join(20)
    assert results.get() == (child.pid, child.pid)


def test_a_lower_rate_costs_the_upper_band(speech, checkpoint):
    before, after = (np.abs(np.fft.rfft(wave)) for wave in (speech[1], enhancer(checkpoint)(speech[1])))
    above = slice(len(before) * 9000 // 24000, None)
    assert np.sum(after[above] ** 2) < 1e-4 * np.sum(before[above] ** 2)
    at_its_own = enhancer(checkpoint, sample_rate=16000)
    wave = audio.resample(speech[1], RATE, 16000)
    model = gtcrn.load(checkpoint)
    with torch.inference_mode():
        expected = model(torch.from_numpy(wave)[None])[0][0].numpy()
    np.testing.assert_array_equal(at_its_own(wave), expected)


@pytest.mark.parametrize("length", [1, 2, 100, 47999])
@pytest.mark.parametrize("rate", [16000, 44100, 48000])
def test_any_length_at_any_rate(speech, checkpoint, published, length, rate):
    wave = speech[0][:length]
    for denoise in (enhancer(checkpoint, rate), onnx(published, rate)):
        assert denoise(wave).shape == wave.shape


def test_bad_files_are_known_at_construction(tmp_path):
    garbage = tmp_path / "garbage"
    garbage.write_bytes(b"neither")
    for make, key in ((enhancer, "ckpt"), (onnx, "path")):
        with pytest.raises(UserError, match=f"data.denoiser.{key} is not set: give"):
            make(None)
        with pytest.raises(UserError, match="nowhere: no such file"):
            make(str(tmp_path / "nowhere"))
        with pytest.raises(UserError, match="garbage: damaged"):
            make(str(garbage))


@pytest.fixture
def package(monkeypatch):
    """A stand-in for DeepFilterNet's package, with its interface (0.5.6): a delay of nothing, half the level."""
    calls = []

    def init_df(model_base_dir=None, post_filter=False, log_level="INFO", log_file="enhance.log"):
        calls.append((model_base_dir, post_filter, log_level, log_file))
        if model_base_dir == "offline":
            raise ConnectionError("no route to github.com\nand more")
        if model_base_dir == "refused":
            sys.exit(1)
        return "network", types.SimpleNamespace(sr=lambda: 48000), "suffix"

    def enhance(network, state, wave, pad=True, atten_lim_db=None):
        assert network == "network" and wave.dtype == torch.float32 and wave.dim() == 2
        return wave * (0.5 if atten_lim_db is None else 10 ** (-atten_lim_db / 20))

    module = types.ModuleType("df.enhance")
    module.init_df, module.enhance = init_df, enhance
    monkeypatch.setitem(sys.modules, "df", types.ModuleType("df"))
    monkeypatch.setitem(sys.modules, "df.enhance", module)
    monkeypatch.setenv("DEVICE", "")
    return calls


def test_deepfilternet(package, speech):
    """The interface alone: its weights are not to be had here."""
    denoise = deepfilternet("DeepFilterNet2", post_filter=True)
    assert package == [("DeepFilterNet2", True, "ERROR", None)]
    np.testing.assert_array_equal(denoise(speech[0]), speech[0] * np.float32(0.5))
    assert deepfilternet(attenuation_limit_db=20.0)(speech[0]).max() == pytest.approx(0.1 * speech[0].max())
    assert deepfilternet(sample_rate=16000)(speech[0][:16000]).shape == (16000,)
    assert pickle.loads(pickle.dumps(denoise)).open_model.args == ("DeepFilterNet2", True, None)
    for model, reason in (("offline", "ConnectionError: no route to github.com"), ("refused", "SystemExit: 1")):
        with pytest.raises(UserError, match=rf"data.denoiser.model={model}: can't be loaded \({reason}\); name Deep"):
            deepfilternet(model)


def test_missing_deepfilternet_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "df", None)
    monkeypatch.delitem(sys.modules, "df.enhance", raising=False)
    with pytest.raises(UserError, match="data/denoiser=deepfilternet: its package .* pip install deepfilternet"):
        deepfilternet()


@pytest.mark.parametrize("file", sorted((Path(__file__).parents[2] / "conf" / "data" / "denoiser").glob("*.yaml")))
def test_configurations_are_the_signatures(file):
    """Every key is there, with the default of what it configures; the rate is that of the data."""
    config = OmegaConf.to_container(OmegaConf.load(file))
    parameters = inspect.signature(get_object(config.pop("_target_"))).parameters.values()
    assert config.pop("sample_rate") == "${data.sample_rate}"
    if "trust" in config:
        assert config["trust"] == "${trust}"
        config["trust"] = False
    assert config == {
        p.name: None if p.default is p.empty else p.default for p in parameters if p.name != "sample_rate"
    }
