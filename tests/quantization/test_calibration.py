"""Recordings for ranges: real ones are found, bad ones are named, too few are told in a line."""

import logging

import numpy as np
import pytest
import soundfile
import torch

from gtcrn.errors import UserError
from gtcrn.quantization.calibration import MAX_SECONDS, MIN_SECONDS, network_input, quantize_enhancer, read_recordings


def write(path, seconds, rate=16000, channels=1, gain=0.1):
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (int(seconds * rate), channels) if channels > 1 else int(seconds * rate)
    soundfile.write(path, gain * np.random.default_rng(0).normal(size=shape).clip(-3, 3), rate)


def test_files_at_any_depth_rate_and_channels(tmp_path):
    write(tmp_path / "a" / "b" / "mono.wav", 8)
    write(tmp_path / "stereo.flac", 4, rate=48000, channels=2)
    heard = read_recordings(tmp_path, 16000)
    assert sorted(map(len, heard.waves)) == [4 * 16000, 8 * 16000]
    assert {(wave.ndim, wave.dtype.name) for wave in heard.waves} == {(1, "float32")}
    assert heard.name == f"12 s of 2 files of {tmp_path.name}"


def test_a_long_file_is_shortened_and_many_are_spread(tmp_path):
    write(tmp_path / "long.wav", 100, rate=8000)
    (only,) = read_recordings(tmp_path / "long.wav", 8000).waves
    assert len(only) == MAX_SECONDS * 8000
    for number in range(40):
        write(tmp_path / f"{number:02}.wav", 1, rate=8000)
    waves = read_recordings(tmp_path, 8000).waves
    assert sum(map(len, waves)) == MAX_SECONDS * 8000
    assert len(waves) == 30


def test_bad_files_are_named_and_left_out(tmp_path, caplog):
    write(tmp_path / "good.wav", MIN_SECONDS + 1)
    write(tmp_path / "slow.wav", MIN_SECONDS, rate=8000)
    (tmp_path / "text.wav").write_text("no audio")
    soundfile.write(tmp_path / "integers.wav", 32767 * soundfile.read(tmp_path / "good.wav")[0], 16000, "FLOAT")
    with caplog.at_level(logging.WARNING):
        assert len(read_recordings(tmp_path, 16000).waves) == 1
    assert "slow.wav: 8000 Hz" in caplog.text and "text.wav: not readable as audio" in caplog.text
    assert "integers.wav: peak of" in caplog.text


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda folder: None, "no such folder"),
        (lambda folder: folder.mkdir(), "no audio files"),
        (lambda folder: write(folder / "x.wav", 3), "3.0 s of sound, and at least 10 s are needed"),
        (lambda folder: write(folder / "x.wav", 20, gain=0), r"0.0 s of sound.*x.wav: silent \(peak"),
        (lambda folder: write(folder / "x.wav", 20, rate=8000), "x.wav: 8000 Hz, and the model's rate is 16000 Hz"),
    ],
)
def test_too_little_is_told_in_a_line(tmp_path, make, complaint):
    make(tmp_path / "calibration")
    with pytest.raises(UserError, match=rf"^calibration=.*{complaint}") as told:
        read_recordings(tmp_path / "calibration", 16000)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(("quantize", "heard"), [("int8", 0.55), ("mixed", 0.55), ("int16x8", 1.0)])
def test_where_there_are_eight_bits_recordings_are_heard_at_one_level(enhancer, noise, quantize, heard):
    wave = noise[:8000] / np.abs(noise).max()
    several, one = (
        quantize_enhancer(enhancer, quantize, waves) for waves in ([wave, 0.1 * wave], [np.float32(heard) * wave])
    )
    for name, scale in one.log_scale.items():
        assert several.log_scale[name].item() == pytest.approx(scale.item(), abs=0.1)


@torch.inference_mode()
def test_bands_are_what_the_core_sees(enhancer, noise):
    found = network_input(enhancer, noise[:8000])
    spec = enhancer.core_input(torch.from_numpy(noise[:8000])[None])
    mask, _ = enhancer.core.mask(found, enhancer.core.start(1, None))
    assert found.shape == (1, 3, spec.shape[2], enhancer.core.erb.n_bands)
    assert mask.shape[2] == spec.shape[2]
