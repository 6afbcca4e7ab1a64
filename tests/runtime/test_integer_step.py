"""A file in integers is a denoiser like any other, without torch, in LiteRT and in TFLite Micro."""

import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("ai_edge_litert")

import gtcrn
from gtcrn.data import audio
from gtcrn.errors import UserError
from gtcrn.export.metadata import Weights, describe
from gtcrn.export.quantizers.litert import work
from gtcrn.export.writers import flatbuffer
from gtcrn.quantization.calibration import quantize_enhancer
from gtcrn.runtime.denoiser import Denoiser
from gtcrn.runtime.integer_step import open_in_tflite_micro


def write(enhancer, network, path):
    graph = flatbuffer.IntegerGraph(network, enhancer.core)
    flatbuffer.write(graph, path, describe(graph, enhancer, Weights("a test", "MIT")).metadata())
    return path


@pytest.fixture(scope="module")
def file(network, enhancer, tmp_path_factory):
    return write(enhancer, network, tmp_path_factory.mktemp("integers") / "tiny.tflite")


def snr(signal, other):
    return 10 * np.log10(np.sum(signal**2) / np.sum((signal - other) ** 2))


def streamed(enhancer, wave):
    with torch.inference_mode():
        return enhancer(torch.from_numpy(wave)[None], enhancer.initial_state(1))[0][0].numpy()


def test_streams_what_the_model_streams(file, enhancer, noise, least_snr):
    wave = noise[64000:70400]
    denoiser = Denoiser(file)
    assert (denoiser.sample_rate, denoiser.hop_length, denoiser.latency) == (16000, 32, 32)
    heard = denoiser.process(wave)
    assert heard.dtype == np.float32
    assert snr(streamed(enhancer, wave), heard) > least_snr
    denoiser.reset()
    np.testing.assert_array_equal(np.concatenate([denoiser.process(wave[:99]), denoiser.process(wave[99:])]), heard)
    np.testing.assert_array_equal(denoiser.stream().process(wave), heard)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(denoiser)).process(wave), heard)


def test_silence_is_silent(file):
    assert not Denoiser(file).process(np.zeros(3200, np.float32)).any()


def test_loud_input_is_limited_and_forgotten(file, noise):
    """Codes saturate; they never wrap around."""
    denoiser = Denoiser(file)
    assert np.isfinite(denoiser.process(np.float32(1e4) * noise[:3200])).all()
    later = denoiser.process(np.zeros(16000, np.float32))
    assert not later[-3200:].any()


def test_in_tflite_micro(file, enhancer, noise, least_snr):
    pytest.importorskip("tflite_micro")
    wave = noise[64000:70400]
    heard = open_in_tflite_micro(file).process(wave)
    assert snr(streamed(enhancer, wave), heard) > least_snr
    stream = open_in_tflite_micro(file)
    stream.process(wave)
    stream.reset()
    np.testing.assert_array_equal(stream.process(wave), heard)


def test_needs_no_torch(file):
    program = f"""
import sys
import numpy as np
from gtcrn.export.quantizers.litert import work
from gtcrn.runtime.denoiser import Denoiser
Denoiser({str(file)!r}).process(np.zeros(64, np.float32))
assert "torch" not in sys.modules
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=Path(gtcrn.__file__).parents[1], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda members: members.pop("erb_analysis.npy"), "metadata are damaged .*erb_analysis.npy"),
        (lambda members: members.update({"metadata.json": b'{"kind": "bands"}'}), "its metadata are not those"),
        (lambda members: members.clear(), "its metadata are not those"),
    ],
)
def test_damaged_files_are_told_in_a_line(file, tmp_path, spoil, complaint):
    with zipfile.ZipFile(file) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
        begin = min(info.header_offset for info in archive.infolist())
    spoil(members)
    (tmp_path / "bad.tflite").write_bytes(file.read_bytes()[:begin])
    with zipfile.ZipFile(tmp_path / "bad.tflite", "a") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    with pytest.raises(UserError, match=complaint) as told:
        Denoiser(tmp_path / "bad.tflite").process(np.zeros(64, np.float32))
    assert "\n" not in str(told.value)
    with pytest.raises(UserError, match="integers"):
        open_in_tflite_micro(tmp_path / "missing.tflite")


def test_the_published_model_in_sixteen_bits(references, recordings, tmp_path):
    """At least 36 dB from the float model's output, without training."""
    enhancer = gtcrn.load(references / "micro" / "best_model_dns3.tar")
    noisy = sorted((recordings / "vctk_demand_mini" / "noisy").glob("*.wav"))
    waves = [audio.load(path, 16000)[: 2 * 16000 // 256 * 256] for path in noisy]
    file = write(enhancer, quantize_enhancer(enhancer, "int16x8", waves[::2]), tmp_path / "micro.tflite")
    assert work(file).share == 1
    denoiser = Denoiser(file)
    found = []
    for wave in waves[1::2]:  # not those it was calibrated with
        denoiser.reset()
        found.append(snr(streamed(enhancer, wave), denoiser.process(wave)))
    assert np.mean(found) >= 36
