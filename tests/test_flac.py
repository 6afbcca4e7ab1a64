"""FLAC files that state no length read as those that do, everywhere a length is asked for."""

import io
from pathlib import Path

import numpy as np
import pytest
import soundfile

from gtcrn import flac
from gtcrn.data import audio
from gtcrn.metrics import WavePair, score_pairs

RATE = 16000


def without_length(path: Path) -> Path:
    """Set the length to zero in the header of a FLAC file, which encoders that stream never learn."""
    content = bytearray(path.read_bytes())
    start = content.index(b"fLaC") + 8 + 13
    content[start : start + 5] = bytes([content[start] & 0xF0, 0, 0, 0, 0])
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("frames", [1, 4096, 70001])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("loudness", [0.0, 0.1])  # a frame of silence is a few bytes, of which none show its length
def test_they_read_like_others(tmp_path, frames, channels, loudness):
    wave = np.random.default_rng(0).normal(scale=loudness, size=(frames, channels)).clip(-1, 1)
    path = tmp_path / "a.flac"
    soundfile.write(path, wave, RATE)
    stated = audio.examine(path)
    whole, rate = audio.read(path)
    without_length(path)
    assert soundfile.info(path).frames == 2**63 - 1

    assert audio.info(path).frames == frames
    assert audio.examine(path) == stated
    np.testing.assert_array_equal(audio.read(path)[0], whole)
    for start in (0, frames // 3, frames - 1, frames + 5):
        np.testing.assert_array_equal(audio.read(path, start, 100)[0], whole[start : start + 100])
        at_half_rate = audio.load(path, RATE // 2, start // 2, 40)
        np.testing.assert_allclose(at_half_rate, audio.resample(whole, RATE, RATE // 2)[start // 2 :][:40], atol=1e-5)
    with flac.opened(io.BytesIO(path.read_bytes())) as file:  # as from an archive
        assert (file.frames, rate) == (frames, RATE)


def test_they_are_scored(tmp_path):
    wave = np.random.default_rng(0).normal(scale=0.1, size=RATE)
    for name in ("clean", "enhanced"):
        soundfile.write(tmp_path / f"{name}.flac", wave, RATE)
    clean, enhanced = tmp_path / "clean.flac", without_length(tmp_path / "enhanced.flac")
    scores = score_pairs([WavePair("a", clean, enhanced)], ["stoi"], workers=1, progress=False)
    assert scores["enhanced_stoi"][0] > 0.999
