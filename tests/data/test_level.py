"""The speech level does not depend on the share of speech in a file, and it is stored with the trained model."""

from math import inf

import numpy as np
import pytest

from gtcrn.data import audio
from gtcrn.data.level import level_of
from gtcrn.data.mixing import Recipe
from gtcrn.data.speech import dns

RATE = 16000


@pytest.fixture
def speech(recordings):
    return audio.load(recordings / "dns_mini/extra_clean/LJ001-0001.wav", RATE)[:, None]


def blocks(wave, size):
    return (wave[start : start + size] for start in range(0, len(wave), size))


def test_a_sine_is_at_its_rms_and_silence_at_none():
    sine = 0.1 * np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)[:, None]
    assert level_of([sine], RATE) == pytest.approx(-23.01, abs=0.01)
    assert (
        level_of([np.zeros((RATE, 2))], RATE) == level_of([np.full((RATE, 1), 0.3)], RATE) == level_of([], RATE) == -inf
    )
    assert level_of([sine[:100]], RATE) == -inf  # less than a frame


def test_neither_pauses_nor_offset_nor_blocks_change_it_but_the_gain(speech):
    level = level_of([speech], RATE)
    assert -35 < level < -15
    assert level_of(blocks(speech, 1001), RATE) == pytest.approx(level, abs=1e-9)
    assert level_of([np.pad(speech, ((3 * RATE, 5 * RATE), (0, 0)))], RATE) == pytest.approx(level, abs=0.05)
    assert level_of([speech + np.float32(0.2)], RATE) == pytest.approx(level, abs=0.01)
    assert level_of([0.1 * speech], RATE) == pytest.approx(level - 20, abs=0.01)
    assert level_of([np.repeat(speech, 2, axis=1)], RATE) == pytest.approx(level, abs=1e-9)


@pytest.mark.parametrize("level", [-40, -20])
def test_the_level_of_training_data_is_that_of_their_recipe(recordings, tmp_path, level):
    """It is measured where speech is active, and so is a little above the RMS of whole mixtures."""
    mini = recordings / "dns_mini"
    data = dns(
        str(mini / "extra_clean"), str(mini / "noise"), None, None, Recipe(level=(level - 2, level + 2)), 0.1, None, 2,
        1.0, "file", sample_rate=RATE, segment_seconds=2.0, batch_size=1, num_workers=0, seed=1, cache_dir=tmp_path,
    )  # fmt: skip
    data.setup(("train",))
    assert level - 1 < data.input_level() < level + 4
    assert data.input_level() == data.input_level()
