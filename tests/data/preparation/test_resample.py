import numpy as np
import pytest
import soundfile

from gtcrn.data import audio
from gtcrn.data.manifest import open_manifest
from gtcrn.data.preparation import files
from gtcrn.data.preparation.resample import Resample


def resample(rate=16000, lowest_rate=None, channels="keep", format="float", checksum=False):
    return Resample(rate, lowest_rate, channels, format, checksum)


@pytest.mark.parametrize("block", [300, 1])
@pytest.mark.parametrize("rate", [16000, 22050, 48000])
def test_a_file_is_what_the_resampler_gives_at_once(prepare, corpus, tmp_path, monkeypatch, rate, block):
    monkeypatch.setattr(files, "_BLOCK", block)
    assert prepare(resample(rate, lowest_rate=8000), corpus, tmp_path / "out").complete
    for path in (file.path for file in open_manifest(corpus, "input", tmp_path / "cache")):
        wave, found_rate = audio.read((tmp_path / "out" / path.relative_to(corpus)).with_suffix(".wav"))
        assert found_rate == rate
        np.testing.assert_array_equal(wave, audio.resample(*audio.read(path), rate))


@pytest.mark.parametrize("channels", ["keep", "first", "mean"])
def test_channels(prepare, tmp_path, channels):
    wave = np.random.default_rng(0).uniform(-0.4, 0.4, (48000, 3)).astype(np.float32)
    audio.write(tmp_path / "in" / "a.wav", wave, 48000, "FLOAT")
    prepare(resample(channels=channels), tmp_path / "in", tmp_path / "out")
    expected = {"keep": wave, "first": wave[:, 0], "mean": wave.mean(axis=1)}[channels]
    found, _ = audio.read(tmp_path / "out" / "a.wav")
    np.testing.assert_array_equal(found, audio.resample(expected, 48000, 16000))


@pytest.mark.parametrize("format", ["flac", "wav", "float"])
def test_what_would_clip_is_turned_down_and_counted(prepare, tmp_path, format):
    square = np.sign(np.sin(2 * np.pi * 440 * np.arange(48000) / 48000)).astype(np.float32)
    audio.write(tmp_path / "in" / "loud.wav", square, 48000, "FLOAT")
    audio.write(tmp_path / "in" / "low.wav", 0.5 * square, 48000, "FLOAT")
    outcome = prepare(resample(format=format), tmp_path / "in", tmp_path / "out")
    suffix = ".flac" if format == "flac" else ".wav"
    loud, low = (audio.read(tmp_path / "out" / f"{name}{suffix}")[0] for name in ("loud", "low"))
    exact = audio.resample(square, 48000, 16000)
    assert np.abs(exact).max() > 1.05  # by which it overshoots
    np.testing.assert_allclose(low, 0.5 * exact, atol=1.5 * 2**-15)  # a step of 16 bits is lost, and roundings
    gain = 1 if format == "float" else (1 - 2**-15) / np.abs(exact).max()
    np.testing.assert_allclose(loud, gain * exact, atol=1e-6 if format == "float" else 1.5 * 2**-15)
    assert outcome.counts["turned down so as not to clip"] == (format != "float")


def test_more_channels_than_flac_has(prepare, tmp_path):
    for channels in (1, 9):
        wave = np.random.default_rng(0).uniform(-0.4, 0.4, (8000, channels))
        audio.write(tmp_path / "in" / f"{channels}.wav", wave, 16000)
    (bad,) = prepare(resample(format="flac"), tmp_path / "in", tmp_path / "flac").bad
    assert bad.path.name == "9.wav" and "9 channels, of which FLAC holds 8" in bad.problem
    assert prepare(resample(format="wav"), tmp_path / "in", tmp_path / "wav").bad == []


def test_a_lower_rate_is_bad_unless_allowed(prepare, corpus, tmp_path):
    outcome = prepare(resample(48000, lowest_rate=22050), corpus, tmp_path / "allowed")
    assert outcome.bad == []
    soundfile.write(corpus / "full.wav", np.random.default_rng(0).uniform(-0.1, 0.1, 48000), 48000)
    outcome = prepare(resample(48000), corpus, tmp_path / "out")
    assert len(outcome.bad) == 5
    assert all("22050 Hz where at least 48000 Hz is needed" in file.problem for file in outcome.bad)
    assert [file.path.name for file in open_manifest(tmp_path / "out", "input", None)] == ["full.wav"]


def test_the_manifest_is_that_of_a_search_and_the_speakers_are_kept(prepare, corpus, tmp_path):
    prepare(resample(checksum=True, format="flac"), corpus, tmp_path / "out", speaker="prefix")
    ready = open_manifest(tmp_path / "out", "input", tmp_path / "cache")
    searched = open_manifest(tmp_path / "out", "input", tmp_path / "cache", "prefix", anew=True)
    assert list(ready) == list(searched)
    assert set(ready.speakers()) == {"b", "p1", "p2"}
    for path, checksum in zip(ready.column("path"), ready.column("sha256")):
        assert files.sha256(tmp_path / "out" / path) == checksum
