from pathlib import Path

import numpy as np
import pytest
import soundfile
from audio_files import CHUNKS, FORMATS, FORMS, NUMBERS, WHOLE_IN_BYTES, encoded, read_alike, scanned_alike, with_number
from hypothesis import given, settings
from hypothesis import strategies as some

from gtcrn.data import audio
from gtcrn.errors import UserError

RATE = 16000


@pytest.fixture
def tone() -> np.ndarray:
    return (0.4 * np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)).astype(np.float32)


@pytest.mark.parametrize("suffix, tolerance", [(".wav", 1e-4), (".flac", 1e-4), (".ogg", 0.05), (".mp3", 0.05)])
def test_every_format_comes_back(tmp_path, tone, suffix, tolerance):
    path = tmp_path / f"tone{suffix}"
    audio.write(path, tone, RATE)
    wave, rate = audio.read(path)
    assert (wave.dtype, wave.shape, rate) == (np.float32, tone.shape, RATE)
    assert np.abs(wave - tone)[1000:-1000].max() < tolerance
    assert audio.info(path).frames == RATE


def test_a_part_is_that_part(tmp_path, tone):
    stereo = np.stack([tone, -tone], axis=1)
    audio.write(tmp_path / "a.wav", stereo, RATE, "FLOAT")
    part, _ = audio.read(tmp_path / "a.wav", start=100, frames=50)
    np.testing.assert_array_equal(part, stereo[100:150])


@pytest.mark.parametrize("suffix", [".wav", ".rf64", ".aiff", ".caf"])
def test_a_file_does_not_hold_the_time_at_which_it_was_written(tmp_path, tone, suffix):
    audio.write(tmp_path / f"a{suffix}", tone, RATE, "FLOAT")
    assert b"peak" not in (tmp_path / f"a{suffix}").read_bytes().lower()


def test_subtype_is_kept_where_the_format_has_it(tmp_path, tone):
    audio.write(tmp_path / "a.wav", tone, RATE, "PCM_24")
    audio.write(tmp_path / "a.flac", tone, RATE, "MPEG_LAYER_III")
    assert audio.info(tmp_path / "a.wav").subtype == "PCM_24"
    assert audio.info(tmp_path / "a.flac").subtype == "PCM_16"


@pytest.mark.parametrize("file_format", sorted({file_format for file_format, _ in audio.FORMATS.values()}))
def test_subtypes_that_are_kept_come_back(tmp_path, tone, file_format):
    """It offers some that it writes wrongly (ALAC_32, GSM610 in AIFF) or not at all (DWVW)."""
    suffix = next(suffix for suffix, (own, _) in audio.FORMATS.items() if own == file_format)
    tolerances = {"PCM_S8": 0.01, "PCM_U8": 0.01, "ULAW": 0.02, "ALAW": 0.02, "VORBIS": 0.05, "OPUS": 0.05}
    tolerances |= {"IMA_ADPCM": 0.05, "MS_ADPCM": 0.05, "GSM610": 0.2, "MPEG_LAYER_III": 0.05}
    for subtype in soundfile.available_subtypes(file_format):
        path = tmp_path / f"a{suffix}"
        audio.write(path, tone, RATE, subtype)
        wave, _ = audio.read(path)
        tolerance = tolerances.get(audio.info(path).subtype, 1e-4)
        assert np.abs(wave[:RATE] - tone)[1000:-1000].max() < tolerance, subtype


def test_mp3_inside_a_wav_becomes_one_that_can_be_written(tmp_path, tone):
    audio.write(tmp_path / "a.wav", tone, RATE, "MPEG_LAYER_III")
    assert audio.info(tmp_path / "a.wav").subtype == "PCM_16"


def test_a_wav_that_grows_too_large_is_rf64(tmp_path, tone, monkeypatch):
    monkeypatch.setattr(audio, "_MOST_BYTES", 30000)
    audio.write(tmp_path / "a.wav", tone, RATE)
    assert audio.info(tmp_path / "a.wav").format == "RF64"
    np.testing.assert_allclose(audio.read(tmp_path / "a.wav")[0], tone, atol=1e-4)
    audio.write(tmp_path / "b.wav", tone[:10000], RATE)
    assert audio.info(tmp_path / "b.wav").format == "WAV"
    with pytest.raises(UserError, match="a.aiff: AIFF holds at most 4 GiB; name a .wav, .w64, .caf or .flac"):
        audio.write(tmp_path / "a.aiff", tone, RATE)


def test_names_that_are_no_utf8(tmp_path, tone):
    path = tmp_path / "caf\udce9.flac"
    audio.write(path, tone, RATE)
    assert audio.examine(path).problem == "" and len(audio.load(path, 8000)) == RATE // 2


def test_long_vorbis_is_written(tmp_path):
    noise = np.random.default_rng(0).uniform(-0.1, 0.1, 60 * 48000).astype(np.float32)
    audio.write(tmp_path / "long.ogg", noise, 48000)
    assert audio.info(tmp_path / "long.ogg").frames == len(noise)


def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path, tone):
    path = tmp_path / "a.wav"
    audio.write(path, tone, RATE)
    before = path.read_bytes()
    with pytest.raises(KeyboardInterrupt):
        with audio.writing(path, RATE) as file:
            file.write(tone[:100])
            raise KeyboardInterrupt
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_errors_name_the_file(tmp_path, tone):
    (tmp_path / "text.wav").write_text("not audio")
    for path in (tmp_path / "text.wav", tmp_path / "none.wav", tmp_path):
        for function in (audio.info, audio.read):
            with pytest.raises(UserError, match=str(path)):
                function(path)
    with pytest.raises(UserError, match="a.txt.*suffixes"):
        audio.write(tmp_path / "a.txt", tone, RATE)
    with pytest.raises(UserError, match="a.mp3.*written"):
        audio.write(tmp_path / "a.mp3", tone, 12345)  # no such rate in MP3
    with pytest.raises(UserError, match="text.wav/a.wav.*written"):
        audio.write(tmp_path / "text.wav" / "a.wav", tone, RATE)


@pytest.mark.parametrize("rate", [48000, 44100, 22050, 8000])
def test_loading_a_part_at_another_rate_equals_resampling_everything(tmp_path, rate):
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 2 * rate + 7).astype(np.float32)
    audio.write(tmp_path / "a.wav", noise, rate, "FLOAT")
    whole = audio.resample(noise, rate, RATE)
    assert len(whole) == audio.resampled_length(len(noise), rate, RATE)
    np.testing.assert_array_equal(audio.load(tmp_path / "a.wav", RATE), whole)
    for start, frames in ((0, 1000), (1, 777), (12345, 8000), (len(whole) - 500, 500)):
        part = audio.load(tmp_path / "a.wav", RATE, start, frames)
        assert np.abs(part - whole[start : start + frames]).max() < 1e-6


def test_resampling_keeps_the_tone_aligned(tone):
    upsampled = audio.resample(tone, RATE, 48000)
    expected = 0.4 * np.sin(2 * np.pi * 440 * np.arange(48000) / 48000)
    assert np.abs(upsampled - expected)[2000:-2000].max() < 1e-4


def test_examining_says_what_is_wrong(tmp_path, tone):
    def facts_of(wave):
        audio.write(tmp_path / "a.wav", np.asarray(wave, np.float32), RATE, "FLOAT")
        return audio.examine(tmp_path / "a.wav")

    good = facts_of(np.stack([tone, 0.5 * tone], axis=1))
    assert (good.frames, good.rate, good.channels, good.problem) == (RATE, RATE, 2, "")
    assert good.peak == pytest.approx(np.abs(tone).max())
    assert good.rms == pytest.approx(np.sqrt(np.mean(tone**2) * 1.25 / 2), rel=1e-5)
    assert facts_of(np.pad(tone, (0, 10 * RATE))).problem == ""
    assert facts_of([]).problem == "empty"
    assert "NaN" in facts_of(np.where(np.arange(RATE) == 9000, np.nan, tone)).problem
    assert "infinite" in facts_of(np.where(np.arange(RATE) == 9000, np.inf, tone)).problem
    assert "silent" in facts_of(np.full(RATE, 3e-5)).problem
    assert facts_of(5 * tone).problem == ""  # above full scale, as the sum of several files may be
    for wave, peak in ((np.round(32767 * tone), "13107"), (np.where(np.arange(RATE) == 9000, 1e20, tone), "1e+20")):
        assert f"peak of {peak} where full scale is 1" in facts_of(wave).problem
    assert audio.examine(tmp_path / "none.wav").problem.endswith("no such file")
    audio.write(tmp_path / "a.flac", np.tile(tone, 10), RATE)
    whole = (tmp_path / "a.flac").read_bytes()
    (tmp_path / "a.flac").write_bytes(whole[: len(whole) // 2])
    assert audio.examine(tmp_path / "a.flac").problem != ""


def test_a_stream_of_chunks_is_the_same_file(tmp_path, tone):
    audio.write(tmp_path / "whole.wav", tone, RATE)
    with audio.writing(tmp_path / "chunks.wav", RATE) as file:
        for start in range(0, RATE, 999):
            file.write(tone[start : start + 999])
    np.testing.assert_array_equal(soundfile.read(tmp_path / "chunks.wav")[0], soundfile.read(tmp_path / "whole.wav")[0])


@pytest.mark.parametrize("suffix", [".wav", ".rf64", ".w64", ".aiff", ".caf", ".flac", ".mp3"])
def test_a_file_that_was_cut_is_refused(tmp_path, tone, suffix):
    path = tmp_path / f"a{suffix}"
    audio.write(path, tone, RATE)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    assert audio.examine(path).problem
    if suffix not in (".flac", ".mp3"):  # whose parts are decoded each by itself
        for function in (audio.info, audio.read):
            with pytest.raises(UserError, match=str(path)):
                function(path)


def test_a_length_unknown_to_who_wrote_it_is_no_cut(tmp_path, tone):
    audio.write(tmp_path / "a.wav", tone, RATE)
    content = bytearray((tmp_path / "a.wav").read_bytes())
    content[4:8] = content[40:44] = b"\xff\xff\xff\xff"  # as by ffmpeg into a pipe
    (tmp_path / "a.wav").write_bytes(content)
    assert audio.examine(tmp_path / "a.wav").problem == ""
    np.testing.assert_allclose(audio.read(tmp_path / "a.wav")[0], tone, atol=1e-4)


def test_lying_headers_are_refused(tmp_path, tone):
    def lying(name: str, offset: int, field: bytes) -> Path:
        audio.write(tmp_path / name, tone, RATE)
        content = bytearray((tmp_path / name).read_bytes())
        content[offset : offset + len(field)] = field
        (tmp_path / name).write_bytes(content)
        return tmp_path / name

    slow = lying("a.wav", 24, (1).to_bytes(4, "little"))
    assert "1 Hz" in audio.examine(slow).problem
    with pytest.raises(UserError, match="1 Hz"):  # resampled, it would be hours long
        audio.load(slow, RATE)
    endless = lying("a.flac", 21, b"\x0f\xff\xff\xff\xff")  # more frames than memory holds
    with pytest.raises(UserError, match="a.flac"):
        audio.read(endless)
    unseekable = lying("b.flac", 8, b"\xff\xff\xff\x7f")  # smallest and largest block: only the middle is out of reach
    assert audio.examine(unseekable).problem


@pytest.mark.parametrize("subtype", ["IMA_ADPCM", "MS_ADPCM", "GSM610"])
def test_what_is_coded_in_blocks_keeps_its_length(tmp_path, tone, subtype):
    audio.write(tmp_path / "a.wav", tone[:15000], RATE, subtype)
    assert audio.info(tmp_path / "a.wav").frames == 15000


@settings(max_examples=60)
@given(
    some.sampled_from(FORMATS),
    some.lists(
        some.tuples(
            some.sampled_from([b"", *CHUNKS]),
            some.integers(0, 15),
            some.sampled_from(FORMS),
            some.sampled_from(NUMBERS),
        ),
        max_size=2,
    ),
    some.none() | some.floats(0, 1, allow_subnormal=False),  # which tasks take from the whole process
)
def test_a_damaged_file_is_refused_or_reads_alike_in_every_way(tmp_path_factory, written, numbers, share):
    suffix, container, encoding = written
    content = encoded(container, encoding, np.random.default_rng(0).uniform(-0.5, 0.5, 1000), RATE)
    for number in numbers:
        content = with_number(content, *number)
    folder = tmp_path_factory.mktemp("damaged")
    (folder / "corpus").mkdir()
    path = folder / f"corpus/speaker_1{suffix}"
    path.write_bytes(content if share is None else content[: round(share * len(content))])
    cut = not numbers and share is not None and share < 0.9 and encoding.startswith(WHOLE_IN_BYTES)
    read_alike(path, np.random.default_rng(0), cut)
    scanned_alike(path, folder / "cache")


@pytest.mark.parametrize("span", ["@0+999999999999", "@999999999999+10", "@4+13"])
def test_an_offset_beyond_its_archive_is_a_bad_file(tmp_path, span):
    """Nothing is read, and no memory is taken for the size that the path states."""
    (tmp_path / "shard-000000.tar").write_bytes(bytes(16))
    with pytest.raises(UserError, match="its archive ends before that"):
        audio.info(f"{tmp_path / 'shard-000000.tar'}{span}")
