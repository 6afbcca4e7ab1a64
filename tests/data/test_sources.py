"""Mixtures, blends and replay through SpeechData, on real recordings."""

import logging
import shutil

import numpy as np
import pytest
import torch

from gtcrn.data import audio
from gtcrn.data.mixing import Recipe, active
from gtcrn.data.sources import MixSource
from gtcrn.data.speech import SpeechData, dns, finetune, vctk_demand
from gtcrn.errors import UserError

LOADING = dict(sample_rate=16000, segment_seconds=1.0, batch_size=4, num_workers=0, seed=5)


def mixed(recordings, cache, recipe=None, **changed) -> SpeechData:
    """Build `data=dns` from the small recordings: two corpora of speech at two rates, one noise, four rooms."""
    mini = recordings / "dns_mini"
    settings = dict(
        speech={
            "dns": {"path": mini / "clean", "weight": 0.3},
            "lj": {"path": mini / "extra_clean", "weight": 0.7},
        },
        noise=mini / "noise",
        rir=mini / "rir",
        speaker=None,
        recipe=Recipe(**(recipe or {})),
        held_out=0.1,
        held_out_by="file",
        epoch_hours=20 / 3600,
        fixed_items=3,
        fixed_seconds=2.0,
        cache_dir=cache,
    )
    data = dns(**(settings | LOADING | changed))
    data.setup()
    return data


def alone(speech) -> dict:
    """Return settings by which all of a corpus is used for training, even a single file."""
    return dict(speech=speech, validation_speech=speech)


def items_of(loader) -> dict[int, dict]:
    """Return the items by index, so that the order does not matter."""
    found = {}
    for batch in loader:
        for row, index in enumerate(batch["index"].tolist()):
            found[index] = {key: batch[key][row] for key in ("noisy", "clean", "name", "snr")}
    return found


def same(one: dict, other: dict) -> bool:
    waves = all(torch.equal(one[key], other[key]) for key in ("noisy", "clean"))
    return waves and (one["name"], float(one["snr"])) == (other["name"], float(other["snr"]))


@pytest.mark.filterwarnings("ignore:This DataLoader will create 3 worker processes")
def test_an_item_depends_on_seed_epoch_and_index_only(recordings, tmp_path):
    """It depends neither on workers nor on devices."""
    data = mixed(recordings, tmp_path, dict(reverb=0.5, noises=(1, 2), noise_only=0.1, clean_only=0.1))
    expected = items_of(data.train_loader(epoch=3))
    assert len(expected) == 20
    workers = mixed(
        recordings, tmp_path, dict(reverb=0.5, noises=(1, 2), noise_only=0.1, clean_only=0.1), num_workers=3
    )
    seen = [items_of(workers.train_loader(epoch=3))]
    seen.append({})
    for rank in range(2):
        seen[1] |= items_of(data.train_loader(epoch=3, rank=rank, world_size=2))
    for items in seen:
        assert items.keys() == expected.keys()
        assert all(same(items[index], expected[index]) for index in expected)
    other = items_of(data.train_loader(epoch=4))
    assert not any(same(other[index], expected[index]) for index in expected)


def test_a_resumed_epoch_gives_exactly_what_was_not_seen(recordings, tmp_path):
    data = mixed(recordings, tmp_path)
    whole = [name for batch in data.train_loader(epoch=2) for name in batch["name"]]
    rest = [name for batch in data.train_loader(epoch=2, start=8) for name in batch["name"]]
    assert rest == whole[8:]


def test_corpora_are_drawn_by_their_weights_and_all_files_before_any_repeats(recordings, tmp_path):
    data = mixed(recordings, tmp_path).dataset("train")
    drawn = [data.explain((epoch, index)).facts["speech"] for epoch in range(2) for index in range(20)]
    lj = [source.split(" from ")[0] for source in drawn if "LJ001" in source]
    assert len(lj) == 28
    training = len(data.speech[-1].files)  # of 10 files, those that are not held out
    assert training in (7, 8) and len(set(lj[:training])) == training


def test_splits_share_no_speaker_and_are_always_the_same(recordings, tmp_path):
    paths = dict(speech=recordings / "dns_mini/extra_clean", noise=recordings / "fullband_mini/noise")
    sources = {"speech": {}, "noise": {}, "rir": {}}
    for seed in (5, 6):
        data = mixed(recordings, tmp_path, dict(reverb=1.0), seed=seed, **paths)
        for split in ("train", "validation", "test"):
            dataset = data.dataset(split)
            facts = [dataset.explain(index).facts for index in range(len(dataset))]
            for role in sources:
                found = {fact[role].split(" from ")[0] for fact in facts}
                assert not any(found & others for name, others in sources[role].items() if name != split)
                sources[role].setdefault(split, set()).update(found)
        items = items_of(data.validation_loader())
        assert all(item["noisy"].shape == (32000,) for item in items.values())
        if seed == 5:
            first = items
    assert all(same(items[index], first[index]) for index in first)


def test_what_an_item_is_made_of(recordings, tmp_path):
    """Every fact is true: the files, the times in them, the SNR, the level."""
    dataset = mixed(recordings, tmp_path, dict(reverb=0.0, snr=(3, 3), level=(-30, -30))).dataset("train")
    for index in range(4):
        explained = dataset.explain((1, index))
        waves, facts = explained.waves, explained.facts
        item = dataset[1, index]
        assert np.array_equal(item["noisy"], waves["noisy"]) and np.array_equal(item["clean"], waves["clean"])
        assert np.abs(waves["noisy"] - waves["clean"] - waves["reverberation"] - waves["noise"]).max() < 1e-6
        for role, wave in (("speech", waves["clean"]), ("noise", waves["noise"])):
            path, seconds = facts[role].removesuffix(" s").split(" from ")
            source = audio.load(path, 16000, round(float(seconds) * 16000) - 80, 16160)
            found = np.correlate(source.astype(float), wave, "valid").argmax()
            cut = source[found : found + 16000]
            cut = cut - cut.mean()
            gain = np.vdot(cut, wave) / np.vdot(cut, cut)
            assert np.abs(gain * cut - wave).max() < 1e-4 * np.abs(wave).max() + 1e-6
        assert facts["snr"] == 3
        assert facts["level"] == pytest.approx(-30, abs=0.01) or np.abs(waves["noisy"]).max() > 0.98


@pytest.mark.parametrize("offset", [0.05, -0.4])
def test_an_offset_changes_neither_snr_nor_level(recordings, tmp_path, offset):
    """An offset of speech or noise is inaudible and does not count in levels."""
    for role, name in (("speech", "extra_clean"), ("noise", "noise")):
        for path in (recordings / "dns_mini" / name).glob("*.wav"):
            wave, rate = audio.read(path)
            audio.write(tmp_path / role / path.name, 0.5 * wave + np.float32(offset), rate, "FLOAT")
    audio.write(tmp_path / "noise/offset.wav", np.full(32000, offset, np.float32), 16000, "FLOAT")  # and nothing else
    paths = dict(speech=tmp_path / "speech", noise=tmp_path / "noise", epoch_hours=8 / 3600)
    dataset = mixed(recordings, tmp_path, dict(snr=(5, 5), level=(-30, -30), reverb=1.0), **paths).dataset("train")
    audible = [dataset.explain((0, index)).waves for index in range(8)]
    audible = [waves for waves in audible if waves["noise"].any()]  # which the file of nothing else has not
    assert len(audible) > 2
    for waves in audible:
        speech = waves["clean"] + waves["reverberation"]
        where = active(speech, 16000)
        audible, noise = ((wave - wave.mean())[where].astype(float) for wave in (speech, waves["noise"]))
        assert 10 * np.log10(np.sum(audible**2) / np.sum(noise**2)) == pytest.approx(5, abs=0.1)
        assert abs(waves["noisy"].mean()) < 1e-3
        assert 10 * np.log10(np.var(waves["noisy"])) == pytest.approx(-30, abs=0.05)


def test_shares_without_speech_and_without_noise(recordings, tmp_path):
    data = mixed(recordings, tmp_path, dict(noise_only=0.3, clean_only=0.3), epoch_hours=200 / 3600)
    snrs = np.array([data.dataset("train")[0, index]["snr"] for index in range(200)])
    assert 40 <= np.sum(snrs == -np.inf) <= 80 and 40 <= np.sum(snrs == np.inf) <= 80
    assert np.isfinite([data.dataset("validation")[index]["snr"] for index in range(3)]).all()


def test_noise_at_another_speed_has_another_pitch_and_validation_has_what_was_recorded(recordings, tmp_path):
    """A tone of 1000 Hz becomes one of 1500 Hz, and nothing else."""
    folder = tmp_path / "tone"
    folder.mkdir()
    tone = 0.1 * np.sin(2 * np.pi * 1000 / 16000 * np.arange(64000, dtype=np.float32))
    audio.write(folder / "tone.wav", tone, 16000)
    recipe = dict(noise_speed=(1.5, 1.5), coloration=1.0, noise_only=1.0)
    data = mixed(recordings, tmp_path, recipe, noise=folder, validation_noise=folder)
    item = data.dataset("train").explain((0, 0))
    spectrum = np.abs(np.fft.rfft(item.waves["noisy"] * np.hanning(16000))) ** 2
    assert spectrum[1490:1511].sum() > 0.999 * spectrum.sum()
    assert item.facts["noise"].endswith("at 1.50 times its speed")
    assert data.dataset("train")[0, 0]["noise"] == "tone"  # the folder, by which scores are grouped

    plain = mixed(recordings, tmp_path, noise=folder, validation_noise=folder)
    for index in range(3):
        assert same(*(each.dataset("validation")[index] for each in (data, plain)))


@pytest.mark.parametrize("rate", [16000, 32000, 48000])
def test_all_rates_from_all_rates(recordings, tmp_path, rate):
    paths = dict(
        speech=[recordings / "fullband_mini/speech", recordings / "dns_mini/extra_clean"],
        noise=recordings / "fullband_mini/noise",
        rir=recordings / "fullband_mini/rir",
    )
    if rate > 22050:
        with pytest.raises(UserError, match="LJ001-0001.wav: wrong rate: 22050 Hz where at least"):
            mixed(recordings, tmp_path, sample_rate=rate, **paths)
    data = mixed(recordings, tmp_path, dict(reverb=1.0), sample_rate=rate, lowest_rate=16000, **paths)
    for index in range(6):
        item = data.dataset("train")[0, index]
        assert item["noisy"].shape == item["clean"].shape == (rate,)
        assert torch.isfinite(item["noisy"]).all() and item["clean"].abs().max() > 1e-3


@pytest.mark.parametrize("short", ["pad", "wrap"])
def test_short_speech_fills_the_crop(recordings, tmp_path, short):
    short_file = recordings / "dns_mini/extra_clean/LJ001-0008.wav"
    (tmp_path / "list.txt").write_text(str(short_file))
    recipe = dict(reverb=0.0, snr=(40, 40))
    data = mixed(recordings, tmp_path, recipe, segment_seconds=4.0, short=short, **alone(tmp_path / "list.txt"))
    frames = len(audio.load(short_file, 16000))
    clean = data.dataset("train")[0, 0]["clean"]
    assert clean.shape == (64000,)
    assert torch.equal(clean[frames : 2 * frames], clean[:frames] if short == "wrap" else torch.zeros(frames))


def test_files_of_several_channels_give_one(recordings, tmp_path):
    wave = audio.load(recordings / "dns_mini/noise/noise_fileid_0.wav", 16000, 0, 32000)
    audio.write(tmp_path / "noise/two.wav", np.stack([wave, -0.5 * wave], axis=1), 16000)
    data = mixed(recordings, tmp_path, noise=tmp_path / "noise")
    assert data.dataset("train")[0, 0]["noisy"].shape == (16000,)


def test_a_silent_stretch_is_not_drawn(recordings, tmp_path):
    speech = audio.load(recordings / "dns_mini/clean/clean_fileid_0.wav", 16000, 0, 32000)
    audio.write(tmp_path / "speech/a_1.wav", np.pad(speech, (0, 64000)), 16000)
    data = mixed(recordings, tmp_path, epoch_hours=40 / 3600, **alone(tmp_path / "speech"))
    items = [data.dataset("train")[0, index] for index in range(40)]
    silent = sum(not item["clean"].any() for item in items)
    assert silent < 12  # two of three crops would be
    assert all(torch.isfinite(item["noisy"]).all() and item["noisy"].any() for item in items)
    assert all((item["snr"] == -np.inf) == (not item["clean"].any()) for item in items)


@pytest.mark.parametrize("original", ["mixtures", "pairs"])
def test_own_material_and_replay_by_ratio_and_hours(recordings, tmp_path, original):
    own = dict(speech=recordings / "fullband_mini/speech", noise=recordings / "fullband_mini/noise", rir=None)
    replay = dict(replay_root=None, replay_speech=None, replay_noise=None, replay_rir=None)
    common = dict(
        replay_validation_speakers=["p000"],
        replay_validation_files=None,
        replay_suffix=None,
        replay_ratio=0.75,
        replay_hours=None,
        speaker="file",
        recipe=Recipe(),
        held_out=0.1,
        epoch_hours=None,
        fixed_items=2,
        fixed_seconds=2.0,
        cache_dir=tmp_path,
    )
    for wrong, message in (
        (dict(), "data.replay_root"),
        (dict(replay_speech=tmp_path), "data.replay_noise"),
        (dict(replay_root=tmp_path, replay_ratio=1), "data.replay_ratio=1"),
    ):
        with pytest.raises(UserError, match=message):
            finetune(**(own | replay | common | wrong | LOADING))
    mini = recordings / "dns_mini"
    known = dict(replay_speech=mini / "extra_clean", replay_noise=mini / "noise")
    validating = 4
    if original == "pairs":
        for path in (recordings / "vctk_demand_mini").rglob("*.wav"):
            speaker = "p000" if path.stem.endswith("6") else "p287"
            (tmp_path / "pairs" / path.parent.name).mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, tmp_path / "pairs" / path.parent.name / path.name.replace("p287", speaker))
        known, validating = dict(replay_root=tmp_path / "pairs"), 3
    for change, expected in ((dict(), 28), (dict(replay_ratio=0.5), 14), (dict(replay_hours=60 / 3600), 67)):
        data = finetune(**(own | replay | common | known | change | LOADING))
        data.setup()
        names = [name for batch in data.train_loader() for name in batch["name"]]
        assert len(names) == expected
        assert sum(name.startswith("own_") for name in names) == 7  # nine files, two of them held out
        assert len(data.dataset("validation")) == validating


def test_pairs_of_several_corpora_by_weight(recordings, tmp_path):
    for name in ("one", "two"):
        shutil.copytree(recordings / "vctk_demand_mini", tmp_path / name, copy_function=shutil.copyfile)
    root = {
        "one": {"path": str(tmp_path / "one"), "weight": 1},
        "two": {"path": str(tmp_path / "two"), "weight": 3},
    }
    settings = dict(
        train_sets=["28spk"], validation_speakers=[], validation_files=["p287_001", "p287_002"], test="auto",
        suffix=None, cache_dir=tmp_path,
    )  # fmt: skip
    data = vctk_demand(root=root, **settings, **LOADING)
    data.setup()
    names = [name for epoch in range(2) for batch in data.train_loader(epoch=epoch) for name in batch["name"]]
    assert len(names) == 16 and sum(name.startswith("two_") for name in names) == 12
    assert {name[4:] for name in names if name.startswith("one_")} == {f"p287_00{n}" for n in (3, 4, 5, 6)}
    with pytest.raises(UserError, match="data.root.one=.*give path and weight"):
        vctk_demand(root={"one": "folder"}, **settings, **LOADING)


def test_bad_files_are_named_or_skipped(recordings, tmp_path):
    shutil.copytree(recordings / "dns_mini/rir", tmp_path / "rir", copy_function=shutil.copyfile)
    audio.write(tmp_path / "rir/slow.wav", np.eye(1, 800)[0].astype(np.float32), 8000)
    with pytest.raises(UserError, match="1 bad file.*slow.wav: wrong rate: 8000 Hz.*data.on_bad_file=skip"):
        mixed(recordings, tmp_path, rir=tmp_path / "rir")
    data = mixed(recordings, tmp_path, rir=tmp_path / "rir", on_bad_file="skip")
    assert [file.path.name for file in data.bad_files] == ["slow.wav"]
    (tmp_path / "brief").mkdir()
    audio.write(tmp_path / "brief/short.wav", np.full(1600, 0.1, np.float32), 16000)
    with pytest.raises(UserError, match="data.noise: brief has no good file left.*too short: 0.10 s"):
        mixed(recordings, tmp_path, noise=tmp_path / "brief", on_bad_file="skip")


def test_a_file_that_goes_bad_while_training(recordings, tmp_path, caplog):
    """It ends the run in one line that names it, or is skipped with a warning."""
    shutil.copytree(recordings / "dns_mini/extra_clean", tmp_path / "speech", copy_function=shutil.copyfile)
    for on_bad_file in ("fail", "skip"):
        data = mixed(recordings, tmp_path, speech=tmp_path / "speech", on_bad_file=on_bad_file)
        gone = data.dataset("train").speech[0].files[0].path
        held = gone.read_bytes()
        gone.unlink()
        with caplog.at_level(logging.WARNING):
            if on_bad_file == "fail":
                with pytest.raises(UserError, match=f"{gone.name}: not readable as audio: no such file"):
                    items_of(data.train_loader())
            else:
                assert sum(len(batch["name"]) for batch in data.train_loader()) == 20
                assert f"skipped: {gone}" in caplog.text
        gone.write_bytes(held)


def test_settings_are_checked(recordings, tmp_path):
    for key, value in dict(held_out=0.6, epoch_hours=0, fixed_items=0, speech=None, noise=None).items():
        with pytest.raises(UserError, match=f"data.{key}"):
            mixed(recordings, tmp_path, **{key: value})
    assert isinstance(mixed(recordings, tmp_path, rir=None).source, MixSource)


class Late:
    """A denoiser that halves its input and gives it back late."""

    def __init__(self, delay: int):
        self.delay = delay

    def __call__(self, wave: np.ndarray) -> np.ndarray:
        return np.float32(0.5) * np.pad(wave, (self.delay, 0))[: len(wave)]


@pytest.mark.parametrize("delay", [0, 137])
def test_degraded_items_are_in_time_with_the_clean_ones(recordings, tmp_path, delay, caplog):
    with caplog.at_level(logging.INFO):
        data = mixed(recordings, tmp_path, dict(reverb=1.0), denoiser=Late(delay))
    assert ("late by 137 samples (8.6 ms)" in caplog.text) == (delay == 137)
    explained = data.dataset("train").explain((0, 1))
    np.testing.assert_array_equal(explained.waves["noisy"], np.float32(0.5) * explained.waves["mixture"])
    waves = explained.waves
    assert np.abs(waves["mixture"] - waves["clean"] - waves["reverberation"] - waves["noise"]).max() < 1e-6
    item = data.dataset("train")[0, 1]
    assert np.array_equal(item["noisy"], waves["noisy"]) and np.array_equal(item["clean"], waves["clean"])
