"""Streams with a limit of attenuation: the noisy signal in them is exactly as late as the enhanced one."""

import numpy as np
import pytest
import torch

from gtcrn.dsp.attenuation import mixed, noisy_share
from gtcrn.errors import UserError
from gtcrn.runtime import eager
from gtcrn.runtime.framing import STFTStep, Stream

HOP = 64
NOISE = np.random.default_rng(0).uniform(-1, 1, 3000).astype(np.float32)
ODD = (1, 0, 63, 64, 1000, 65, 1807)


class Gain:
    """A step that multiplies."""

    def __init__(self, gain):
        self.gain = gain

    def reset(self):
        pass

    def __call__(self, x):
        return self.gain * x


class Late:
    """A step whose output is the input, later by so many samples."""

    def __init__(self, delay):
        self.delay = delay
        self.reset()

    def reset(self):
        self.past = np.zeros((1, self.delay), np.float32)

    def __call__(self, x):
        line = np.concatenate([self.past, x], axis=1)
        self.past = line[:, x.shape[1] :]
        return line[:, : x.shape[1]]


def in_blocks(stream, wave=NOISE, lengths=ODD):
    return np.concatenate([stream.process(block) for block in np.split(wave, np.cumsum(lengths)[:-1])])


@pytest.mark.parametrize("block_length", [None, 1])
@pytest.mark.parametrize(
    ("step", "delay", "rounding"),
    [(Late(0), 0, 1e-7), (Late(30), 30, 1e-7), (Late(200), 200, 1e-7), (STFTStep(4 * HOP, HOP, Gain(1)), 192, 5e-7)],
    ids=["no delay", "less than a hop", "hops and a part", "STFT"],
)
@pytest.mark.parametrize("decibels", [0, 6, 12])
def test_a_model_that_changes_nothing(step, delay, rounding, block_length, decibels):
    step.reset()
    stream = Stream(step, 16000, HOP, delay, block_length, decibels)
    output = in_blocks(stream)[stream.latency :]
    expected = NOISE[: len(output)]
    assert len(expected) > 2700
    np.testing.assert_allclose(output, expected, rtol=0, atol=rounding if decibels else 0)


def test_noise_alone_is_lowered_by_the_limit():
    for decibels in (0, 3, 20):
        stream = Stream(Gain(0), 16000, HOP, 200, attenuation_limit_db=decibels)
        output = in_blocks(stream)
        np.testing.assert_array_equal(output[:200], 0)
        np.testing.assert_allclose(output[200:], 10 ** (-decibels / 20) * NOISE[: len(output) - 200], rtol=1e-6)


def test_a_new_stream_begins_with_the_limit_as_it_is():
    stream = Stream(Gain(0), 16000, HOP, 0, attenuation_limit_db=0)
    stream.attenuation_limit_db = None
    stream.reset()
    assert not in_blocks(stream).any()


@pytest.mark.parametrize("block_length", [None, 1])
@pytest.mark.parametrize(("before", "after"), [(6, 20), (20, 0), (None, 6), (6, None)])
def test_a_change_takes_one_hop(block_length, before, after):
    stream = Stream(Gain(0), 16000, HOP, 200, block_length, before)
    ones = np.ones(1000, np.float32)
    first = stream.process(ones)
    stream.attenuation_limit_db = after
    output = np.concatenate([first, stream.process(ones)])
    assert stream.attenuation_limit_db == after
    share, wanted = noisy_share(before), noisy_share(after)
    level, step = output[stream.latency :], (wanted - share) / HOP
    # 15 hops were complete at the change, of which the noisy signal is late by 200 samples
    begin = 15 * HOP - 200
    expected = np.concatenate([np.full(begin, share), share + step * np.arange(1, HOP), np.full(9999, wanted)])
    np.testing.assert_allclose(level, expected[: len(level)], atol=1e-6)


def test_a_limit_that_is_none_is_refused_and_changes_nothing():
    stream = Stream(Gain(0), 16000, HOP, 0, attenuation_limit_db=12)
    with pytest.raises(UserError, match="attenuation_limit_db=-3: must be"):
        stream.attenuation_limit_db = -3
    assert stream.attenuation_limit_db == 12
    with pytest.raises(UserError, match="attenuation_limit_db=nan: must be"):
        Stream(Gain(0), 16000, HOP, 0, attenuation_limit_db=float("nan"))


def test_a_stream_equals_the_whole_file(system):
    enhancer = system("tiny")
    with torch.inference_mode():
        enhanced = enhancer(torch.from_numpy(NOISE)[None])[0][0].numpy()
    stream = eager.open_stream(enhancer, attenuation_limit_db=6)
    streamed = np.concatenate([in_blocks(stream), stream.flush()])[stream.latency :]
    assert np.abs(streamed - enhanced).max() > 0.01
    np.testing.assert_allclose(streamed, mixed(NOISE, enhanced, noisy_share(6)), atol=1e-6)
