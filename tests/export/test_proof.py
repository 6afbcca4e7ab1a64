"""The proof finds what a converter can do wrong, and a user hears where and why."""

import re

import numpy as np
import pytest
import soundfile
import torch

from gtcrn.errors import UserError
from gtcrn.export.proof import SECONDS, TOLERANCE, noisy_speech, prove, recording, stream_hops, whole_hops


class Torch:
    """The model itself as a file's runtime; `spoil` changes what a hop gives."""

    def __init__(self, enhancer, spoil=lambda y, hop: y, forget=False):
        self.enhancer, self.spoil, self.forget = enhancer, spoil, forget
        self.sample_rate, self.hop_length = enhancer.sample_rate, enhancer.hop_length
        self.latency = enhancer.latency
        self.reset()

    def reset(self):
        self.state, self.hop = self.enhancer.initial_state(1), 0

    @torch.inference_mode()
    def process(self, samples):
        pieces = []
        for hop in torch.from_numpy(samples).reshape(-1, 1, self.hop_length):
            y, state = self.enhancer(hop, self.state)
            if self.forget:  # the core's state stays what it was at first
                state["core"] = self.state["core"]
            self.state = state
            pieces.append(self.spoil(y[0].numpy(), self.hop))
            self.hop += 1
        return np.concatenate(pieces)


@pytest.fixture(scope="module")
def enhancer(system):
    return system("tiny")


@pytest.fixture(scope="module")
def hops(noisy):
    return whole_hops(noisy[16000 : 16000 + 60 * 16 + 5], 16)


def proof_of(runner, enhancer, hops):
    return prove(stream_hops(runner, hops), enhancer, hops)


def test_what_is_equal_is_proved(enhancer, hops):
    proof = proof_of(Torch(enhancer), enhancer, hops)
    assert proof.error <= 1e-6 and proof.frames == 57  # the first three hops give what was before
    assert 0 < proof.median_ms <= proof.p95_ms
    assert proof_of(Torch(enhancer, lambda y, hop: y + 0.9 * TOLERANCE), enhancer, hops).error > 0.8 * TOLERANCE


def test_what_is_wrong_is_located(enhancer, hops):
    def bump(y, hop):
        return y + (hop == 40) * np.float32(2 * TOLERANCE)

    with pytest.raises(
        UserError, match=r"by 0.0002 in frame 37 of 57, for the first time too much in frame 37"
    ) as told:
        proof_of(Torch(enhancer, bump), enhancer, hops)
    assert "\n" not in str(told.value)
    with pytest.raises(UserError, match="no number from frame 2 of 57 on"):
        proof_of(Torch(enhancer, lambda y, hop: y * np.float32(np.nan if hop >= 5 else 1)), enhancer, hops)


def test_a_lost_state_is_told_from_a_wrong_operator(enhancer, hops):
    with pytest.raises(UserError, match="a state that is not handed on rightly"):
        proof_of(Torch(enhancer, forget=True), enhancer, hops)
    with pytest.raises(UserError, match="an operator that was converted wrongly"):
        proof_of(Torch(enhancer, lambda y, hop: 0.9 * y), enhancer, hops)


def test_without_a_recording_the_demo_speaks():
    wave = noisy_speech(16000)
    assert wave.shape == (SECONDS * 16000,) and wave.dtype == np.float32
    assert 0.4 < np.abs(wave).max() <= 0.5
    seconds = np.abs(wave).reshape(SECONDS, -1).max(axis=1)
    assert seconds.min() > 0.02
    assert recording(None, 16000).name == f"{SECONDS} s of the demo's speech and noises"


def test_recordings_are_brought_to_the_model(tmp_path):
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(7 * 48000) / 48000)
    soundfile.write(tmp_path / "tone.wav", np.stack([tone, 0 * tone], axis=1), 48000)
    wave, name = recording(tmp_path / "tone.wav", 16000)
    assert wave.shape == (SECONDS * 16000,) and name == "5.0 s of tone.wav"
    assert np.abs(wave[1000:-1000] - tone[::3][1000 : len(wave) - 1000]).max() < 1e-3


@pytest.mark.parametrize(
    ("seconds", "rate", "level", "complaint"),
    [
        (3, 16000, 0.0, "silent"),
        (0, 16000, 0.1, "empty"),
        (3, 8000, 0.1, "8000 Hz, but the model's rate is 16000 Hz"),
        (0.5, 16000, 0.1, "only 0.50 s long"),
        (None, 0, 0, "not readable as audio"),
    ],
)
def test_recordings_of_no_use_are_named(tmp_path, seconds, rate, level, complaint):
    path = tmp_path / "bad.wav"
    if seconds is None:
        path.write_text("no audio")
    else:
        noise = np.random.default_rng(0).uniform(-level, level, int(seconds * rate))
        soundfile.write(path, noise, rate)
    with pytest.raises(UserError, match=f"audio={re.escape(str(path))}: .*{complaint}") as told:
        recording(path, 16000)
    assert "\n" not in str(told.value)
    with pytest.raises(UserError, match="no such file"):
        recording(tmp_path / "nowhere.wav", 16000)


def test_a_recording_silent_where_it_is_used(tmp_path):
    wave = np.zeros((7 * 16000, 2))
    wave[-16000:] = 0.1
    soundfile.write(tmp_path / "late.wav", wave, 16000)
    with pytest.raises(UserError, match="silent in its first channel's first 5 s"):
        recording(tmp_path / "late.wav", 16000)
