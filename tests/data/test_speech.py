"""SpeechData on trees with every kind of bad file, at 48 kHz, with workers, and with real recordings."""

import pickle
import shutil

import numpy as np
import pytest
import torch

from gtcrn.data import audio
from gtcrn.data.sources import PairSource
from gtcrn.data.speech import SpeechData
from gtcrn.data.vctk_demand import VctkDemand
from gtcrn.errors import UserError


def speech_data(corpus, cache, **changed) -> SpeechData:
    settings = dict(sample_rate=16000, segment_seconds=1.0, batch_size=2, num_workers=0, seed=5, cache_dir=cache)
    return SpeechData(PairSource(corpus), **(settings | changed))


def mini(recordings, cache, **changed) -> SpeechData:
    corpus = VctkDemand(recordings / "vctk_demand_mini", ["28spk"], [], ["p287_005", "p287_006"], test="validation")
    return speech_data(corpus, cache, **changed)


def batches(loader) -> dict[str, list]:
    seen = {"noisy": [], "clean": [], "name": [], "index": []}
    for batch in loader:
        for key in seen:
            seen[key] += list(batch[key])
    return seen


@pytest.fixture
def full_band(tmp_path, recordings):
    """Write real speech and noise at 48 kHz in the layout as downloaded, two files of p226 and two of p287."""
    root = tmp_path / "vctk_demand"
    speech = sorted((recordings / "fullband_mini" / "speech").glob("*.wav"))
    noise = sorted((recordings / "fullband_mini" / "noise").glob("*.wav"))
    for (folder, name), speech_file, noise_file in zip(
        [("trainset_28spk", f"{speaker}_00{n}") for speaker in ("p226", "p250", "p287") for n in (1, 2)]
        + [("testset", "p232_001")],
        speech,
        noise,
    ):
        clean, rate = audio.read(speech_file, frames=96000)
        noisy = clean + 0.3 * audio.read(noise_file, frames=len(clean))[0]
        audio.write(root / f"clean_{folder}_wav" / f"{name}.wav", clean, rate)
        audio.write(root / f"noisy_{folder}_wav" / f"{name}.wav", noisy, rate)
    return root


@pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker processes")
def test_crops_depend_on_seed_epoch_and_index_only(recordings, tmp_path):
    runs = []
    for num_workers in (0, 1, 4, "auto"):
        data = mini(recordings, tmp_path, num_workers=num_workers)
        data.setup()
        loader = data.train_loader()
        epochs = []
        for epoch in (0, 1):
            loader.sampler.set_epoch(epoch)  # with workers that stay alive in between
            epochs.append(batches(loader))
        runs.append(epochs)
    for run in runs[1:]:
        for epoch, expected in zip(run, runs[0]):
            assert epoch["name"] == expected["name"]
            for key in ("noisy", "clean"):
                assert all(torch.equal(a, b) for a, b in zip(epoch[key], expected[key]))
    first, second = runs[0]
    by_name = dict(zip(second["name"], second["noisy"]))
    assert sorted(first["name"]) == sorted(by_name)
    assert not any(torch.equal(wave, by_name[name]) for name, wave in zip(first["name"], first["noisy"]))


def test_a_resumed_loader_gives_the_batches_not_yet_seen(recordings, tmp_path):
    data = mini(recordings, tmp_path)
    data.setup()
    whole, rest = batches(data.train_loader(epoch=7)), batches(data.train_loader(epoch=7, start=2))
    assert rest["name"] == whole["name"][2:]
    assert all(torch.equal(a, b) for a, b in zip(rest["noisy"], whole["noisy"][2:]))


def test_crops_of_a_pair_begin_at_the_same_sample(recordings, tmp_path):
    data = mini(recordings, tmp_path)
    data.setup()
    dataset = data.train_loader().dataset
    for index, pair in enumerate(data.dataset("train").pairs):
        item = dataset[3, index]
        noisy, clean = audio.read(pair.noisy)[0], audio.read(pair.clean)[0]
        starts = np.flatnonzero(noisy[: len(noisy) - 15999] == item["noisy"][0].item())
        assert any(
            np.array_equal(noisy[p : p + 16000], item["noisy"]) and np.array_equal(clean[p : p + 16000], item["clean"])
            for p in starts
        )


def test_whole_files_one_by_one(recordings, tmp_path):
    data = mini(recordings, tmp_path)
    data.setup()
    for loader in (data.validation_loader(), data.test_loader()):
        for batch, pair in zip(loader, data.dataset("validation").pairs, strict=True):
            assert batch["noisy"].shape == batch["clean"].shape == (1, pair.frames)
            assert batch["noisy"].dtype == torch.float32
            assert batch["name"] == [pair.name]
            assert batch["snr"].item() == pytest.approx(pair.snr)


@pytest.mark.parametrize("short", ["pad", "wrap"])
def test_short_files_fill_the_crop(recordings, tmp_path, short):
    data = mini(recordings, tmp_path, segment_seconds=3.0, short=short)
    data.setup()
    index = data.dataset("train").pairs.index(min(data.dataset("train").pairs, key=lambda pair: pair.frames))
    pair = data.dataset("train").pairs[index]
    wave = data.train_loader().dataset[0, index]["noisy"]
    assert wave.shape == (48000,)
    assert torch.equal(wave[: pair.frames], torch.from_numpy(audio.read(pair.noisy)[0]))
    tail = wave[pair.frames :]
    assert torch.equal(tail, wave[: len(tail)] if short == "wrap" else torch.zeros(len(tail)))


def test_the_dataset_travels_light(recordings, tmp_path):
    data = mini(recordings, tmp_path)
    data.setup()
    dataset = data.train_loader().dataset
    size = len(pickle.dumps(dataset))
    assert size < 1000 * len(dataset)
    assert torch.equal(pickle.loads(pickle.dumps(dataset))[1, 2]["noisy"], dataset[1, 2]["noisy"])


def test_snr_is_measured(recordings, tmp_path):
    data = mini(recordings, tmp_path)
    data.setup(("train",))
    for pair in data.dataset("train").pairs:
        noisy, clean = (audio.read(path)[0].astype(float) for path in (pair.noisy, pair.clean))
        assert pair.snr == pytest.approx(10 * np.log10(clean.var() / (noisy - clean).var()), abs=1e-3)
        for half, path, wave in (("noisy", pair.noisy, noisy), ("clean", pair.clean, clean)):
            audio.write(tmp_path / "offset" / half / path.name, wave + 0.3 * (half == "noisy"), pair.rate, "FLOAT")
    offset = speech_data(VctkDemand(tmp_path / "offset", ["28spk"], [], test="all"), tmp_path)
    offset.setup(("test",))
    found, expected = (
        {pair.name: pair.snr for pair in dataset.pairs} for dataset in (offset.dataset("test"), data.dataset("train"))
    )
    assert found == pytest.approx(expected, abs=0.01)  # nobody hears an offset


def test_full_band_files_are_resampled_once(full_band, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    corpus = VctkDemand(full_band, ["28spk"], ["p226", "p287"])
    data = speech_data(corpus, cache)
    data.setup()
    assert [
        len(pairs)
        for pairs in (data.dataset("train").pairs, data.dataset("validation").pairs, data.dataset("test").pairs)
    ] == [2, 4, 1]
    pair, original = data.dataset("test").pairs[0], corpus.pairs("test")[0]
    wave, rate = audio.read(pair.noisy)
    assert (rate, pair.rate, len(wave)) == (16000, 16000, pair.frames)
    np.testing.assert_array_equal(wave, audio.resample(audio.read(original.noisy)[0], 48000, 16000))

    copies = {path: path.stat().st_mtime_ns for path in (cache / "resampled-16000").iterdir()}
    assert len(copies) == 14
    monkeypatch.setattr("gtcrn.data.scan._examine", None)  # neither is called a second time
    monkeypatch.setattr("gtcrn.data.resampled.audio.resample", None)
    again = speech_data(corpus, cache)
    again.setup()
    assert list(again.dataset("train").pairs) == list(data.dataset("train").pairs)
    assert {path: path.stat().st_mtime_ns for path in (cache / "resampled-16000").iterdir()} == copies


def test_a_copy_lost_or_outdated_is_made_anew(full_band, tmp_path):
    corpus = VctkDemand(full_band, ["28spk"], ["p226", "p287"])
    data = speech_data(corpus, tmp_path / "cache")
    data.setup(("test",))
    before = data.dataset("test").pairs[0]
    before.noisy.unlink()
    original = corpus.pairs("test")[0]
    for half in (original.noisy, original.clean):
        audio.write(half, audio.read(half)[0][:48000], 48000)
    data = speech_data(corpus, tmp_path / "cache")
    data.setup(("test",))
    assert data.dataset("test").pairs[0].frames == audio.info(data.dataset("test").pairs[0].noisy).frames == 16000
    assert data.dataset("test").pairs[0].clean != before.clean


def test_resampling_on_the_fly_gives_the_same_crops(full_band, tmp_path):
    corpus = VctkDemand(full_band, ["28spk"], ["p226", "p287"])
    items = []
    for resample in ("cache", "on_the_fly"):
        data = speech_data(corpus, tmp_path / resample, resample=resample)
        data.setup()
        items.append([data.train_loader().dataset[1, 0], data.validation_loader().dataset[1]])
    assert not (tmp_path / "on_the_fly" / "resampled-16000").exists()
    for cached, fresh in zip(*items):
        assert cached["noisy"].shape == fresh["noisy"].shape
        assert torch.allclose(cached["noisy"], fresh["noisy"], atol=1e-6)
        assert torch.allclose(cached["clean"], fresh["clean"], atol=1e-6)


def spoil(root, kind):
    """Make p287_002 bad; return the file and a pattern of the message that must name it."""
    noisy, clean = root / "noisy" / "p287_002.wav", root / "clean" / "p287_002.wav"
    wave, rate = audio.read(noisy)
    match kind:
        case "no clean half":
            clean.unlink()
            return clean, "missing"
        case "no noisy half":
            noisy.unlink()
            return noisy, "missing"
        case "unreadable":
            noisy.write_bytes(b"RIFF, but no more than that")
            return noisy, "not readable"
        case "empty":
            audio.write(noisy, wave[:0], rate)
            return noisy, "empty"
        case "no bytes":
            noisy.write_bytes(b"")
            return noisy, "not readable"
        case "stereo":
            audio.write(clean, np.stack([wave, wave], axis=1), rate)
            return clean, "2 channels"
        case "low rate":
            audio.write(noisy, wave, 8000)
            return noisy, "8000 Hz"
        case "other rate":
            audio.write(noisy, wave, 48000)
            return noisy, "48000 Hz, but its clean half"
        case "NaN":
            wave[1000] = np.nan
            audio.write(noisy, wave, rate, "FLOAT")
            return noisy, "NaN"
        case "integers":
            audio.write(noisy, np.round(32767 * wave), rate, "FLOAT")
            return noisy, "where full scale is 1"
        case "silent":
            audio.write(clean, 0 * wave, rate)
            return clean, "silent"
        case "short":
            audio.write(noisy, wave[:-1], rate)
            return noisy, "samples"


KINDS = ["no clean half", "no noisy half", "unreadable", "empty", "no bytes", "stereo"]
KINDS += ["low rate", "other rate", "NaN", "integers", "silent", "short"]


@pytest.mark.parametrize("kind", KINDS)
def test_bad_files_are_named_or_skipped(recordings, tmp_path, kind):
    root = tmp_path / "corpus"
    shutil.copytree(recordings / "vctk_demand_mini", root, copy_function=shutil.copyfile)
    for folder in (root, root / "noisy", root / "clean"):
        folder.chmod(0o755)
    corpus = VctkDemand(root, ["28spk"], [], ["p287_005", "p287_006"])
    speech_data(corpus, tmp_path / "cache").setup(("train",))  # a good scan is remembered, and then outdated

    culprit, problem = spoil(root, kind)
    for _ in range(2):  # the second time from the memory
        with pytest.raises(UserError) as error:
            speech_data(corpus, tmp_path / "cache").setup(("train",))
        message = str(error.value)
        assert "1 bad file: " in message and "data.on_bad_file=skip" in message
        assert str(culprit) in message and problem in message and "\n" not in message

    data = speech_data(corpus, tmp_path / "cache", on_bad_file="skip")
    data.setup(("train", "validation"))
    assert [pair.name for pair in data.dataset("train").pairs] == ["p287_001", "p287_003", "p287_004"]
    assert [file.path for file in data.bad_files] == [culprit]
    assert len(batches(data.train_loader())["name"]) == 3


def test_nothing_good_left_is_an_error_even_when_skipping(recordings, tmp_path):
    for half in ("noisy", "clean"):
        (tmp_path / "corpus" / half).mkdir(parents=True)
    shutil.copyfile(recordings / "vctk_demand_mini/noisy/p287_001.wav", tmp_path / "corpus/noisy/p287_001.wav")
    corpus = VctkDemand(tmp_path / "corpus", ["28spk"], ["p287"], test="all")
    with pytest.raises(UserError, match="no good pair left"):
        speech_data(corpus, tmp_path / "cache", on_bad_file="skip").setup(("test",))


def test_a_test_set_that_was_trained_on_is_pointed_out(recordings, tmp_path, caplog):
    corpus = VctkDemand(recordings / "vctk_demand_mini", ["28spk"], [], ["p287_005"], test="all")
    speech_data(corpus, tmp_path).setup()
    assert "5 of the test files are training files" in caplog.text
    caplog.clear()
    mini(recordings, tmp_path).setup()
    assert "training files" not in caplog.text


def test_a_damaged_memory_is_made_anew(recordings, tmp_path):
    mini(recordings, tmp_path).setup()
    (memory,) = (tmp_path / "scans").iterdir()
    memory.write_bytes(memory.read_bytes()[:100])
    data = mini(recordings, tmp_path)
    data.setup()
    assert len(data.dataset("train").pairs) == 4


def test_settings_are_checked(recordings, tmp_path):
    for key, value in dict(
        short="cut", resample="never", on_bad_file="ignore", segment_seconds=0, batch_size=0
    ).items():
        with pytest.raises(UserError, match=f"data.{key}={value}"):
            mini(recordings, tmp_path, **{key: value})
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="data.cache_dir"):
        mini(recordings, tmp_path / "file").setup()


def test_describe(recordings, tmp_path):
    data = mini(recordings, tmp_path)
    data.setup()
    train, validation, test = data.describe()
    assert train.startswith("train: 4 files, 0.3 min, 1 speaker, SNR ")
    assert validation.removeprefix("validation") == test.removeprefix(data.title("test"))
    assert data.title("test") == "test (on the validation set: these data have no test set)"


def test_a_sample_rate_above_the_corpus_is_a_wrong_rate(recordings, tmp_path):
    with pytest.raises(UserError, match="16000 Hz where at least 48000 Hz"):
        mini(recordings, tmp_path, sample_rate=48000).setup()


@pytest.mark.parametrize(("cores", "devices", "workers"), [(1, 1, 0), (2, 1, 1), (64, 1, 8), (16, 4, 3), (2, 4, 0)])
def test_automatic_workers_leave_a_core_to_each_device(recordings, tmp_path, monkeypatch, cores, devices, workers):
    monkeypatch.setattr("joblib.cpu_count", lambda: cores)
    data = mini(recordings, tmp_path, num_workers="auto", prefetch=3)
    data.setup()
    loader = data.train_loader(world_size=devices)
    assert (loader.num_workers, loader.prefetch_factor) == (workers, 3 if workers else None)
    assert loader.persistent_workers == (workers > 0) and not loader.pin_memory
