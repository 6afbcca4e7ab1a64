"""task=enhance: files come out enhanced, whatever their rate, channels and length."""

import copy
import os
import tracemalloc
from functools import partial

import numpy as np
import onnx
import pytest
import soundfile
import torch
from fixtures.commands import compose, run_command
from fixtures.disk import room_for

import gtcrn
from gtcrn.data import audio
from gtcrn.errors import Interrupted, UserError
from gtcrn.metrics.pair import evaluate_pair
from gtcrn.runtime.denoiser import Denoiser
from gtcrn.tasks import enhance
from gtcrn.tasks.enhance import enhance_file, find_jobs

PUBLISHED = "gtcrn/dns3_epoch87.tar"


@pytest.fixture(scope="module")
def causal(references):
    return gtcrn.load(references / PUBLISHED)


@pytest.fixture(scope="module")
def speech(recordings):
    files = sorted((recordings / "vctk_demand_mini/noisy").glob("*.wav"))
    return np.concatenate([soundfile.read(path, dtype="float32")[0] for path in files])


@pytest.mark.parametrize("file", [PUBLISHED, "light_v3/best_model_078.tar"])
def test_file_equals_the_library(tmp_path, monkeypatch, references, speech, file):
    """Files are streamed, or enhanced in overlapping segments, here six, if the model looks ahead."""
    monkeypatch.setattr(enhance, "SEGMENT_SECONDS", 10)
    enhancer = gtcrn.load(references / file)
    wave = np.resize(speech, 60 * 16000 + 77)
    soundfile.write(tmp_path / "in.wav", wave, 16000, subtype="FLOAT")
    enhance_file(enhancer, tmp_path / "in.wav", tmp_path / "out.wav")
    with torch.no_grad():
        expected = enhancer(torch.from_numpy(wave)[None])[0][0].numpy()
    written = soundfile.read(tmp_path / "out.wav", dtype="float32")[0]
    assert len(written) == len(wave)
    assert np.abs(written - expected).max() <= 1e-5


@pytest.mark.parametrize(
    ("name", "rate", "channels", "frames"),
    [("a.wav", 16000, 1, 40001), ("b.wav", 44100, 2, 90000), ("c.wav", 8000, 3, 1)],
)
def test_runtimes_equal_pytorch(tmp_path, references, speech, name, rate, channels, frames):
    """They do so for every sample of every channel at any rate, and a second file is not affected by the first."""
    wave = np.stack([np.roll(speech, 9000 * i)[:frames] for i in range(channels)], axis=1)
    soundfile.write(tmp_path / name, wave, rate, subtype="FLOAT")
    denoiser = Denoiser(references / "gtcrn/gtcrn_simple.onnx")
    outputs = []
    for i, model in enumerate((gtcrn.load(references / "gtcrn/dns3_epoch96.tar"), denoiser, denoiser)):
        enhance_file(model, tmp_path / name, tmp_path / f"{i}.wav")
        outputs.append(soundfile.read(tmp_path / f"{i}.wav", dtype="float32", always_2d=True)[0])
    assert outputs[0].shape == wave.shape and np.abs(outputs[0]).max() > 0
    assert np.abs(outputs[1] - outputs[0]).max() <= 1e-5
    np.testing.assert_array_equal(outputs[2], outputs[1])


configure = partial(compose, "task=enhance")


@pytest.mark.parametrize("model", [PUBLISHED, "light_v3/best_model_078.tar", "gtcrn/gtcrn_simple.onnx"])
def test_what_is_taken_away_has_a_limit(tmp_path, references, speech, model):
    """At any rate the input itself is what is mixed in, above the model's band too."""
    wave = np.stack([speech[:20001], np.roll(speech, 9000)[:20001]], axis=1)
    soundfile.write(tmp_path / "in.wav", wave, 44100, subtype="FLOAT")
    opened = (Denoiser if model.endswith(".onnx") else gtcrn.load)(references / model)
    outputs = []
    for limit in (None, 0, 12):
        enhance_file(opened, tmp_path / "in.wav", tmp_path / "out.wav", attenuation_limit_db=limit)
        outputs.append(soundfile.read(tmp_path / "out.wav", dtype="float32")[0])
    enhanced, same, limited = outputs
    np.testing.assert_array_equal(same, wave)
    share = 10 ** (-12 / 20)
    np.testing.assert_allclose(limited, share * wave + (1 - share) * enhanced, atol=1e-6)
    assert np.abs(limited - enhanced).max() > 0.01


def test_task_with_an_exported_file(tmp_path, references, speech):
    soundfile.write(tmp_path / "in.wav", speech[:20000], 16000)
    onnx = references / "gtcrn/gtcrn_simple.onnx"
    enhance.run(
        configure(f"ckpt={onnx}", f"input={tmp_path}/in.wav", f"output={tmp_path}/out.wav", "attenuation_limit_db=0")
    )
    before, after = (soundfile.read(tmp_path / f"{name}.wav")[0] for name in ("in", "out"))
    np.testing.assert_array_equal(after, before)


@pytest.mark.parametrize(
    ("overrides", "complaint"),
    [
        (["ckpt=a.tflite"], "a.tflite: no such file"),
        (["ckpt=a.onnx", "device=cuda"], "device=cuda: exported files run with device=cpu alone"),
        (["ckpt=a.onnx", "padding=reflect"], "padding=reflect: exported files run with padding=zeros alone"),
    ],
)
def test_what_an_exported_file_does_not_run(overrides, complaint):
    with pytest.raises(UserError, match=complaint) as error:
        enhance.run(configure(*overrides, "input=in", "output=out"))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "rate", "channels", "frames", "subtype"),
    [
        ("a.wav", 48000, 1, 30001, "PCM_16"),
        ("b.flac", 44100, 2, 50000, "PCM_24"),
        ("c.wav", 8000, 1, 9999, "FLOAT"),
        ("d.ogg", 22050, 1, 40000, None),
        ("e.mp3", 48000, 2, 60000, None),
        ("f.wav", 16000, 6, 5000, "PCM_16"),
        ("g.wav", 16000, 1, 1, "PCM_16"),
        ("h.opus", 16000, 1, 20000, "OPUS"),
        ("i.aiff", 16000, 1, 20000, "PCM_24"),
        ("j.caf", 16000, 1, 20000, "ALAC_16"),
        ("k.W64", 16000, 1, 20000, "FLOAT"),
        ("l.wave", 8000, 1, 20000, "ULAW"),
    ],
)
def test_format_is_kept(tmp_path, causal, speech, name, rate, channels, frames, subtype):
    wave = np.stack([np.roll(speech, 1000 * i)[:frames] for i in range(channels)], axis=1)
    audio.write(tmp_path / name, wave, rate, subtype)
    before = audio.info(tmp_path / name)
    enhance_file(causal, tmp_path / name, tmp_path / "out" / name)
    after = audio.info(tmp_path / "out" / name)
    for attribute in ("samplerate", "channels", "frames", "format", "subtype"):
        assert getattr(before, attribute) == getattr(after, attribute)


@pytest.mark.parametrize("file_format", ["RF64", "WAVEX"])
def test_what_a_wav_is_inside_is_kept(tmp_path, causal, speech, file_format):
    soundfile.write(tmp_path / "in.wav", speech[:16000], 16000, "PCM_16", format=file_format)
    enhance_file(causal, tmp_path / "in.wav", tmp_path / "out.wav")
    after = audio.info(tmp_path / "out.wav")
    assert (after.format, after.frames) == (file_format, 16000)


def test_tags_are_kept(tmp_path, causal, speech):
    with soundfile.SoundFile(tmp_path / "in.flac", "w", 16000, 1) as file:
        file.title, file.artist, file.software = "Žluťoučký kůň", "Anon", "a recorder"
        file.write(speech[:16000])
    for name in ("out.flac", "out.ogg", "out.wav"):
        enhance_file(causal, tmp_path / "in.flac", tmp_path / name)
        tags = audio.tags_of(tmp_path / name)
        assert (tags["title"], tags["artist"]) == ("Žluťoučký kůň", "Anon")
    enhance_file(causal, tmp_path / "in.flac", tmp_path / "out.au")  # has none
    enhance_file(causal, tmp_path / "in.flac", tmp_path / "out.mp3")  # libsndfile would garble the title
    assert audio.tags_of(tmp_path / "out.mp3")["artist"] == "Anon"
    assert not audio.tags_of(tmp_path / "out.mp3").get("title")


def refuses_to_work(*_):
    raise AssertionError("the work was begun")


def test_what_cannot_be_written_is_told_before_the_work(tmp_path, causal, speech, monkeypatch):
    monkeypatch.setattr(enhance, "enhanced_blocks", refuses_to_work)
    soundfile.write(tmp_path / "in.wav", np.stack([speech[:16000]] * 9, axis=1), 44100)
    (tmp_path / "file").touch()
    for name, complaint in (
        ("out.mp3", "out.mp3: can't be written"),
        ("out.flac", "out.flac: can't be written"),
        ("out.txt", "audio is written as"),
        ("file/out.wav", "file/out.wav: can't be written"),
        ("x" * 300 + ".wav", "can't be written .File name too long"),
    ):
        with pytest.raises(UserError, match=complaint):
            enhance_file(causal, tmp_path / "in.wav", tmp_path / name)
    assert sorted(os.listdir(tmp_path)) == ["file", "in.wav"]


def test_longest_names(tmp_path, causal, speech):
    name = "n" * 251 + ".wav"
    soundfile.write(tmp_path / name, speech[:4000], 16000)
    enhance_file(causal, tmp_path / name, tmp_path / "out" / name)
    assert audio.info(tmp_path / "out" / name).frames == 4000


@pytest.mark.parametrize("value", [1e20, np.inf, np.nan, 11.0])
def test_one_sample_that_is_no_sound_refuses_the_file(tmp_path, causal, speech, value):
    wave = speech[:32000].copy()
    wave[20000] = value
    soundfile.write(tmp_path / "in.wav", wave, 16000, subtype="FLOAT")
    with pytest.raises(UserError, match="in.wav: holds samples (of .* times full scale|that are not finite)"):
        enhance_file(causal, tmp_path / "in.wav", tmp_path / "out.wav")
    assert os.listdir(tmp_path) == ["in.wav"]


def test_what_the_model_spoils_is_not_written(tmp_path, causal, speech):
    soundfile.write(tmp_path / "in.wav", speech[:16000], 16000)
    broken = copy.deepcopy(causal)
    next(broken.core.decoder.parameters()).data.fill_(np.nan)
    with pytest.raises(UserError, match="in.wav: the model made NaN or infinity of it"):
        enhance_file(broken, tmp_path / "in.wav", tmp_path / "out.wav")
    assert os.listdir(tmp_path) == ["in.wav"]


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".mp3"])
def test_a_full_disk_is_told_and_leaves_nothing(tmp_path, causal, speech, suffix):
    """The disk has no room for the last bytes, a failure that libsndfile ignores, or for the temporary samples."""
    complaint = rf"out{suffix}: can't be written \(File too large; .* GB free\)$"
    wave = speech[:32000]
    soundfile.write(tmp_path / "in.wav", wave, 16000)
    audio.write(tmp_path / f"out{suffix}", wave, 16000)
    size = (tmp_path / f"out{suffix}").stat().st_size
    (tmp_path / f"out{suffix}").unlink()
    for room in (size - 10, size // 2):
        with pytest.raises(UserError, match=complaint), room_for(room):
            audio.write(tmp_path / f"out{suffix}", wave, 16000)
    with pytest.raises(UserError, match=complaint), room_for(100_000):
        enhance_file(causal, tmp_path / "in.wav", tmp_path / f"out{suffix}")
    assert os.listdir(tmp_path) == ["in.wav"]


def test_ctrl_c_leaves_what_is_done(tmp_path, references, speech, monkeypatch):
    for name in ("a.wav", "b.wav", "c.wav"):
        (tmp_path / "in").mkdir(exist_ok=True)
        soundfile.write(tmp_path / "in" / name, speech[:16000], 16000)
    blocks = enhance.enhanced_blocks

    def stopped(model, path, *rest):
        if path.name == "b.wav":
            raise KeyboardInterrupt
        return blocks(model, path, *rest)

    monkeypatch.setattr(enhance, "enhanced_blocks", stopped)
    with pytest.raises(Interrupted, match="interrupted: 1 of 3 files are enhanced and whole"):
        enhance.run(configure(f"ckpt={references / PUBLISHED}", f"input={tmp_path}/in", f"output={tmp_path}/out"))
    assert os.listdir(tmp_path / "out") == ["a.wav"]


def test_soft_files_are_told_and_are_enhanced_as_well_as_others_when_normalised(
    tmp_path, references, recordings, caplog
):
    """Published Light v3 does much worse on soft speech, unless this is brought to its trained level."""
    (tmp_path / "in").mkdir()
    clean, rate = audio.read(recordings / "vctk_demand_mini/clean/p287_001.wav")
    noisy, _ = audio.read(recordings / "vctk_demand_mini/noisy/p287_001.wav")
    soundfile.write(tmp_path / "in/full.wav", noisy, rate, "FLOAT")
    soundfile.write(tmp_path / "in/soft.wav", 0.1 * noisy, rate, "FLOAT")
    soundfile.write(tmp_path / "in/silent.wav", 0 * noisy, rate, "FLOAT")
    places = f"ckpt={references / 'light_v3/best_model_078.tar'}", f"input={tmp_path}/in"
    si_sdr = {}
    for level in ("as_is", "normalise"):
        caplog.clear()
        enhance.run(configure(*places, f"output={tmp_path}/{level}", f"level={level}"))
        assert ("soft.wav: speech at -4" in caplog.text) == (level == "as_is")
        assert "full.wav: speech" not in caplog.text and "silent.wav: speech" not in caplog.text
        for name, gain in (("full", 1), ("soft", 10)):
            enhanced = gain * audio.read(tmp_path / level / f"{name}.wav")[0]
            si_sdr[level, name] = evaluate_pair(clean, enhanced, rate, ["si_sdr"]).values["si_sdr"]
            si_sdr[level, name, "level"] = np.linalg.norm(enhanced)
    assert si_sdr["as_is", "soft"] < si_sdr["as_is", "full"] - 2
    assert si_sdr["normalise", "soft"] == pytest.approx(si_sdr["normalise", "full"], abs=0.1)
    assert si_sdr["normalise", "full"] == pytest.approx(si_sdr["as_is", "full"], abs=1)
    assert si_sdr["normalise", "soft", "level"] == pytest.approx(si_sdr["as_is", "full", "level"], rel=0.1)
    assert not audio.read(tmp_path / "normalise/silent.wav")[0].any()


def test_a_level_that_is_not_known_is_told(references):
    exported = references / "gtcrn/gtcrn_simple.onnx"
    keys = ("input=a.wav", "output=b.wav", "level=normalise")
    with pytest.raises(UserError, match="does not say"):
        enhance.run(configure(f"ckpt={exported}", *keys))


def test_an_exported_file_knows_the_level_of_its_checkpoint(tmp_path, references, speech, caplog):
    """It gives the same warning, and with level=normalise the same audio."""
    model = onnx.load(references / "gtcrn/gtcrn_simple.onnx")
    onnx.helper.set_model_props(model, {"input_level": "-22"})
    onnx.save(model, tmp_path / "exported.onnx")
    soundfile.write(tmp_path / "soft.wav", 0.01 * speech[:32000], 16000, "FLOAT")
    models = gtcrn.load(references / "gtcrn/dns3_epoch96.tar"), Denoiser(tmp_path / "exported.onnx")
    assert models[0].input_level == models[1].input_level == -22
    for normalise in (False, True):
        caplog.clear()
        for i, model in enumerate(models):
            enhance_file(model, tmp_path / "soft.wav", tmp_path / f"{i}.wav", normalise)
        assert caplog.text.count("far from the -22 dBFS") == (0 if normalise else 2)
        of_torch, of_file = (soundfile.read(tmp_path / f"{i}.wav")[0] for i in range(2))
        assert np.abs(of_file - of_torch).max() <= 1e-3 * np.abs(of_torch).max()


def test_resampled_audio_stays_aligned(tmp_path, speech):
    """With a model that changes nothing, input and output at 44.1 kHz differ by resampling alone."""

    class Passing(torch.nn.Module):
        sample_rate, hop_length, latency, input_level = 16000, 256, 256, None

        def __init__(self):
            super().__init__()
            self.anchor = torch.nn.Parameter(torch.zeros(()))

        def total_lookahead(self):
            return 0

        def initial_state(self, batch):
            return torch.zeros(batch, self.latency)

        def forward(self, wave, past):
            both = torch.cat([past, wave], dim=1)
            return both[:, : wave.shape[1]], both[:, wave.shape[1] :]

    wave = audio.resample(speech[:48000], 16000, 44100)
    soundfile.write(tmp_path / "in.wav", wave, 44100, subtype="FLOAT")
    enhance_file(Passing(), tmp_path / "in.wav", tmp_path / "out.wav")
    written = soundfile.read(tmp_path / "out.wav", dtype="float32")[0]
    middle = slice(2000, -2000)
    assert np.corrcoef(written[middle], wave[middle])[0, 1] > 0.9999
    assert np.corrcoef(written[middle][1:], wave[middle][:-1])[0, 1] < 0.9999


def test_nothing_clips(tmp_path, causal, speech):
    loud = np.clip(speech[:64000] * 30, -1, 1)
    soundfile.write(tmp_path / "in.wav", loud, 16000)
    gain = enhance_file(causal, tmp_path / "in.wav", tmp_path / "out.wav")
    with torch.no_grad():
        peak = causal(torch.from_numpy(loud)[None])[0].abs().max().item()
    assert peak > 1 and gain == pytest.approx(1 / peak, rel=1e-3)
    written = soundfile.read(tmp_path / "out.wav")[0]
    assert np.abs(written).max() < 1 and (np.abs(written) > 0.9999).sum() <= 2


def test_float_input_does_not_clip_in_an_integer_format(tmp_path, causal, speech):
    soundfile.write(tmp_path / "in.wav", 8 * speech[:32000], 16000, subtype="FLOAT")
    assert enhance_file(causal, tmp_path / "in.wav", tmp_path / "out.flac") < 1
    assert np.abs(soundfile.read(tmp_path / "out.flac")[0]).max() < 1
    assert enhance_file(causal, tmp_path / "in.wav", tmp_path / "out.wav") == 1
    assert np.abs(soundfile.read(tmp_path / "out.wav")[0]).max() > 1


def test_truncated_file_is_named(tmp_path, causal, speech):
    soundfile.write(tmp_path / "in.mp3", speech[:64000], 16000)
    whole = (tmp_path / "in.mp3").read_bytes()
    (tmp_path / "in.mp3").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"in.mp3: damaged: ends after \d+ of the \d+ frames"):
        enhance_file(causal, tmp_path / "in.mp3", tmp_path / "out.mp3")
    assert not (tmp_path / "out.mp3").exists()


def test_memory_does_not_grow_with_length(tmp_path, causal, speech):
    peaks = []
    for seconds in (30, 120):
        soundfile.write(tmp_path / "in.wav", np.resize(speech, seconds * 16000), 16000)
        tracemalloc.start()
        enhance_file(causal, tmp_path / "in.wav", tmp_path / "out.wav")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]


@pytest.mark.slow
def test_bad_files_do_not_stop_the_others(tmp_path, references, speech):
    inputs = tmp_path / "in"
    (inputs / "deep").mkdir(parents=True)
    soundfile.write(inputs / "good.wav", speech[:16000], 16000)
    soundfile.write(inputs / "deep/good.flac", speech[:16000], 48000)
    soundfile.write(inputs / "empty.wav", np.zeros(0), 16000)
    soundfile.write(inputs / "nan.wav", np.full(9000, np.nan), 16000, subtype="FLOAT")
    (inputs / "garbage.wav").write_bytes(b"no audio")
    (inputs / "notes.txt").write_text("not audio, and not asked to be")
    keys = (f"ckpt={references / PUBLISHED}", f"input={inputs}", "output=out")
    result = run_command(tmp_path, "task=enhance", *keys)
    assert result.returncode == 2
    assert "3 files or folders failed" in result.stderr and "Traceback" not in result.stderr
    for name in ("empty.wav", "nan.wav", "garbage.wav"):
        assert name in result.stderr
    written = sorted(
        str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file()
    )
    assert written == ["deep/good.flac", "good.wav"]  # and nothing half-written


def test_jobs(tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    with pytest.raises(UserError, match="no audio files"):
        find_jobs(source, tmp_path / "out")
    with pytest.raises(UserError, match="no such file or folder"):
        find_jobs(tmp_path / "nowhere", tmp_path / "out")
    soundfile.write(source / "a.wav", np.zeros(10), 16000)
    with pytest.raises(UserError, match="would overwrite"):
        find_jobs(source, source)
    soundfile.write(source / "b.wav", np.zeros(10), 16000)
    (source / "out").mkdir()
    soundfile.write(source / "out/a.wav", np.zeros(10), 16000)
    for wanted, target, written in (
        (source, source / "out", [source / "out/a.wav", source / "out/b.wav"]),
        (source / "a.wav", tmp_path / "b.flac", [tmp_path / "b.flac"]),
        (source / "a.wav", tmp_path / "folder", [tmp_path / "folder/a.wav"]),
    ):
        jobs, failures = find_jobs(wanted, target)
        assert [destination for _, destination in jobs] == written and not failures
    os.mkfifo(tmp_path / "pipe.wav")
    with pytest.raises(UserError, match="pipe.wav: a pipe or device, and not a file"):
        find_jobs(tmp_path / "pipe.wav", tmp_path / "out")
