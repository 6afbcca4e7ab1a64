import numpy as np
import pytest
import soundfile

from gtcrn.data import audio
from gtcrn.data.manifest import open_manifest
from gtcrn.data.preparation.segment import Segment
from gtcrn.errors import UserError

RATE = 16000


def segment(seconds=1.0, hop=None, least_seconds=0.5, least_active=0.0, format="wav"):
    return Segment(seconds, hop, least_seconds, least_active, format, False)


def written(folder):
    return {path.name: soundfile.read(path, dtype="int16")[0] for path in sorted(folder.rglob("*.wav"))}


@pytest.mark.parametrize(
    ("hop", "least_seconds", "lengths"),
    [(None, 0.5, [1, 1, 1, 0.6]), (None, 0.7, [1, 1, 1]), (0.5, 0.5, [1, 1, 1, 1, 1, 1, 0.6]), (2, 0.5, [1, 1])],
)
def test_pieces_are_the_samples_that_were_there(prepare, tmp_path, hop, least_seconds, lengths):
    wave = np.random.default_rng(0).integers(-32768, 32768, round(3.6 * RATE)).astype(np.int16)
    (tmp_path / "in" / "folder").mkdir(parents=True)
    soundfile.write(tmp_path / "in" / "folder" / "x.y.flac", wave, RATE)
    outcome = prepare(segment(hop=hop, least_seconds=least_seconds), tmp_path / "in", tmp_path / "out")
    pieces = written(tmp_path / "out" / "folder")
    assert list(pieces) == [f"x.y_{number:04d}.wav" for number in range(len(lengths))]
    for number, (piece, seconds) in enumerate(zip(pieces.values(), lengths)):
        start = round(number * (hop or 1) * RATE)
        np.testing.assert_array_equal(piece, wave[start : start + round(seconds * RATE)])
    assert outcome.counts["pieces"] == len(lengths) == len(open_manifest(tmp_path / "out", "input", None))


def test_silence_and_pauses_are_left_out_and_numbers_stay(prepare, recordings, tmp_path):
    speech = audio.load(recordings / "dns_mini" / "extra_clean" / "LJ001-0001.wav", RATE, 0, 2 * RATE)
    hiss = 1e-3 * np.random.default_rng(0).standard_normal(RATE).astype(np.float32)
    audio.write(tmp_path / "in" / "a.wav", np.concatenate([speech, hiss, np.zeros(RATE, np.float32), speech]), RATE)
    prepare(segment(), tmp_path / "in", tmp_path / "all")
    assert list(written(tmp_path / "all")) == [f"a_{number:04d}.wav" for number in (0, 1, 2, 4, 5)]
    outcome = prepare(segment(least_active=0.3), tmp_path / "in", tmp_path / "active")
    assert list(written(tmp_path / "active")) == [f"a_{number:04d}.wav" for number in (0, 1, 4, 5)]
    assert outcome.counts == {"pieces": 4, "pieces left out": 2}


def test_a_file_that_is_too_short_is_bad(prepare, corpus, tmp_path):
    soundfile.write(corpus / "short.wav", np.full(1000, 0.1), 22050)
    (bad,) = prepare(segment(), corpus, tmp_path / "out").bad
    assert str(bad) == f"{corpus / 'short.wav'}: too short: 0.05 s where at least 0.5 s are needed"


def test_nothing_left(prepare, tmp_path):
    click = np.where(np.arange(RATE) < 800, 0.5, 1e-3).astype(np.float32)
    audio.write(tmp_path / "in" / "a.wav", click, RATE)
    with pytest.raises(UserError, match="nothing of the input is of use$"):
        prepare(segment(least_active=0.5), tmp_path / "in", tmp_path / "out")


def test_loud_floats_do_not_clip(prepare, tmp_path):
    wave = np.random.default_rng(0).uniform(-2, 2, 2 * RATE).astype(np.float32)
    audio.write(tmp_path / "in" / "a.wav", wave, RATE, "FLOAT")
    prepare(segment(format="flac"), tmp_path / "in", tmp_path / "out")
    gain = (1 - 2**-15) / np.abs(wave).max()
    for number in range(2):
        piece, _ = audio.read(tmp_path / "out" / f"a_000{number}.flac")
        np.testing.assert_allclose(piece, gain * wave[number * RATE : (number + 1) * RATE], atol=2**-15)


@pytest.mark.parametrize(
    "wrong", [{"least_seconds": 2}, {"seconds": 0.01}, {"hop": 0}, {"least_active": 1.5}, {"format": "mp3"}]
)
def test_mistakes(wrong):
    with pytest.raises(UserError, match=f"prepare.{'least_seconds' if 'seconds' in wrong else next(iter(wrong))}"):
        segment(**wrong)
