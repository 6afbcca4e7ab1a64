"""Speakers are found by the names of files, and no speaker is in two splits, from names to mixtures."""

import logging

import numpy as np
import pytest
import soundfile

from gtcrn.data.mixing import Recipe
from gtcrn.data.speakers import known_speaker, speaker_rule, split_of
from gtcrn.data.speech import dns, dns_pairs, finetune, noisy
from gtcrn.errors import UserError

KNOWN = {
    "read_speech/book_00000_chp_0009_reader_06709_1_seg_1_seg1.wav": "reader_06709",
    "p226_001.wav": "p226",
    "wav48/p226/p226_001_mic1.flac": "p226",
    "84/121123/84-121123-0000.flac": "84",
    "84_121123_000007_000001.wav": "84",
    "SSB0005/SSB00050001.wav": "SSB0005",
    "BAC009S0002W0122.wav": "S0002",
    "TRAIN/DR1/FCJF0/SA1.WAV.wav": "FCJF0",
    "id10270/5r0dWxy17C8/00001.wav": "id10270",
    "s30_l_lbwzzp.flac": "s30",
    "1001_DFA_ANG_XX.wav": "1001",
    "LJ001-0001.wav": "LJ",
}
LOADING = dict(sample_rate=16000, segment_seconds=0.25, batch_size=1, num_workers=0, seed=5)
MIXED = dict(rir=None, speaker=None, recipe=Recipe(reverb=0.0), held_out=0.1, epoch_hours=None) | LOADING
MIXED |= dict(fixed_items=3, fixed_seconds=0.5)


def write(folder, names):
    """Write half a second of noise under each name and return the folder."""
    rng = np.random.default_rng(len(names))
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / name, rng.normal(0, 0.1, 8000), 16000)
    return str(folder)


@pytest.fixture
def noise(tmp_path):
    return write(tmp_path / "noise", [f"{number}.wav" for number in range(4)])


def speakers(data) -> dict[str, set[str]]:
    data.setup()
    return {split: data.dataset(split).speakers() for split in ("train", "validation", "test")}


@pytest.mark.parametrize("path", KNOWN)
def test_names_of_known_corpora(path):
    assert known_speaker(path)[0] == KNOWN[path]
    assert speaker_rule([path])(path)[0] == KNOWN[path]


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (["clips/common_voice_en_{i}{n}.mp3"], {""}),
        (["{who}_0{n}.wav"], {"anna", "ben", "carl"}),
        (["clean/{who}_0{n}.wav"], {"anna", "ben", "carl"}),
        (["wav/{who}/{n}.wav"], {"anna", "ben", "carl"}),
        (["{who}/day{n}/{n}.wav"], {"anna", "ben", "carl"}),
        (["{who}/{who}_{n}.wav"], {"anna", "ben", "carl"}),
        (["day{n}/{who}_{n}.wav"], {""}),  # who says that days are no speakers?
        (["{who}/{n}_hello.wav"], {""}),  # or that numbers are none?
        (["take_{i}{n}.wav"], {""}),
        (["{i}{n}_hello.wav"], {""}),  # a prefix for each file tells nothing
        (["p22{i}_00{n}.wav", "take_{i}{n}.wav"], {"p220", "p221", "p222", ""}),
    ],
)
def test_other_names_tell_speakers_where_they_are_plain(paths, expected):
    names = ["anna", "ben", "carl"]
    paths = [path.format(who=who, i=i, n=n) for path in paths for i, who in enumerate(names) for n in range(3)]
    rule = speaker_rule(paths)
    assert {rule(path)[0] for path in paths} == expected


def test_a_split_depends_on_the_name_alone_and_stays_when_speakers_come():
    shares = {"validation": 0.1, "test": 0.1}
    splits = {}
    for count in (1000, 1500):
        names = np.array([f"{number % count:04d}" for number in range(5 * count)], object)
        owners = split_of(names, shares)
        splits[count] = {split: set(names[owners == split]) for split in ("train", *shares)}
        assert sum(map(len, splits[count].values())) == count
        assert 0.07 * count < len(splits[count]["test"]) < 0.13 * count
    assert all(splits[1000][split] <= splits[1500][split] for split in splits[1000])


@pytest.mark.parametrize("share", [1e-9, 0.1, 0.49])
def test_every_split_gets_a_speaker_or_there_is_none(share):
    shares = {"validation": share, "test": share}
    for names in (["a", "b", "c"], ["a", "b", ""], ["a", "b", "c", "d", ""]):
        owners = split_of(np.array(names, object), shares)
        assert set(owners) == {"train", "validation", "test"}
        assert "" not in names or owners[names.index("")] == "train"
    for names in (["a", "b"], ["a", ""], [""], []):
        assert split_of(np.array(names, object), shares) is None


def test_mixtures_of_dns_speech_hold_out_readers(tmp_path, noise, caplog):
    """All their names begin alike, so that by the prefix they would be one speaker."""
    names = [f"book_0000{n}_chp_0009_reader_0{who:04d}_{n}.wav" for who in range(12) for n in range(2)]
    with caplog.at_level(logging.INFO):
        found = speakers(dns(write(tmp_path / "speech", names), noise, **MIXED))
    assert "data.speech: 12 speakers in 24 files (DNS Challenge 12)" in caplog.text
    assert set.union(*found.values()) == {f"reader_0{who:04d}" for who in range(12)}
    assert sum(map(len, found.values())) == 12 and all(found.values())
    assert "train too" not in caplog.text


def test_no_speaker_crosses_over_by_way_of_a_second_corpus(tmp_path, noise):
    corpora = [
        write(tmp_path / name, [f"p{who}_00{n}.wav" for who in range(220, 232) for n in range(2)])
        for name in ("one", "two")
    ]
    corpora.append(write(tmp_path / "lj", ["LJ001-0001.wav"]))  # of one speaker, who can't be split
    found = speakers(dns(corpora, noise, **MIXED | dict(held_out=0.3)))
    assert sum(map(len, found.values())) == 13 and all(found.values())


def test_too_few_speakers_are_refused_and_files_are_held_out_on_request(tmp_path, noise, caplog):
    speech = write(tmp_path / "speech", [f"common_voice_en_{n}.wav" for n in range(8)])
    message = r"data.speech: 0 speakers in 8 files \(8 files of unknown speakers\), too few to hold any out"
    with pytest.raises(UserError, match=f"{message}: .*data.validation_speech=FOLDER.*data.held_out_by=file"):
        dns(speech, noise, **MIXED).setup()
    lj = write(tmp_path / "lj", [f"LJ001-000{n}.wav" for n in range(8)])
    with pytest.raises(UserError, match=r"1 speaker in 8 files \(LJ Speech 1\), too few"):
        dns(lj, noise, **MIXED).setup()
    data = dns(lj, noise, **MIXED | dict(held_out_by="file"))
    data.setup()
    files = {
        split: {file.path for part in data.dataset(split).speech for file in part.files}
        for split in ("train", "validation", "test")
    }
    assert len(set.union(*files.values())) == sum(map(len, files.values())) == 8 and all(files.values())
    assert "1 speaker of the validation set trains too: LJ" in caplog.text
    one = write(tmp_path / "one", ["anna.wav"])
    with pytest.raises(UserError, match="too few to hold any out: .*prepare=segment"):
        dns(one, noise, **MIXED | dict(held_out_by="file")).setup()
    with pytest.raises(UserError, match="data.held_out_by=name is not one of speaker, file"):
        dns(lj, noise, **MIXED | dict(held_out_by="name"))


def test_folders_that_validate_are_not_split_and_need_no_names(tmp_path, noise, caplog):
    speech = write(tmp_path / "speech", ["a.wav", "b.wav", "p226_001.wav"])
    apart = write(tmp_path / "apart", ["c.wav", "d.wav"])
    other = write(tmp_path / "other", ["e.wav"])
    data = dns(speech, noise, **MIXED, validation_speech=apart, validation_noise=other)
    data.setup()
    stems = {
        split: {file.path.stem for part in data.dataset(split).speech for file in part.files}
        for split in ("train", "validation", "test")
    }
    assert stems == {"train": {"a", "b", "p226_001"}, "validation": {"c", "d"}, "test": {"c", "d"}}
    assert [file.path.stem for file in data.dataset("validation").noise[0].files] == ["e"]
    assert len(data.dataset("train").noise[0].files) == 4
    assert data.title("test") == "test (on the validation set: these data have no test set)"
    assert data.title("validation") == "validation"
    data = dns(speech, noise, **MIXED, validation_speech=apart, test_speech=other)
    assert speakers(data) == {"train": {"p226"}, "validation": set(), "test": set()}
    assert [file.path.stem for file in data.dataset("test").speech[0].files] == ["e"]
    assert data.title("test") == "test"
    write(tmp_path / "apart", ["p226_002.wav"])
    dns(speech, noise, **MIXED, validation_speech=apart, test_speech=other).setup()
    assert "1 speaker of the validation set trains too: p226" in caplog.text


def test_the_small_real_corpus(recordings, tmp_path, caplog):
    """A third of its speech names no speaker: it is used for training, or separate folders for validation are given."""
    real = recordings / "real"
    corpora = dict(speech=str(real / "speech/train"), noise=str(real / "noise/train"))
    with caplog.at_level(logging.INFO):
        found = speakers(dns(**corpora, **MIXED, cache_dir=tmp_path))
    assert "652 files (LibriSpeech " in caplog.text and "309 files of unknown speakers" in caplog.text
    assert "309 files of unknown speakers are all used for training" in caplog.text
    assert sum(map(len, found.values())) == len(set.union(*found.values())) > 200
    apart = {f"validation_{role}": str(real / role / "valid") for role in ("speech", "noise")}
    data = dns(**corpora, **apart, **MIXED, cache_dir=tmp_path)
    found = speakers(data)
    assert len(found["validation"]) == 20 and not found["validation"] & found["train"]
    assert sum(len(part.files) for part in data.dataset("train").speech) == 652


def test_own_material_without_speakers_needs_a_word_too(tmp_path, noise):
    own, validating = (write(tmp_path / name, [f"{name}.wav"]) for name in ("own", "validating"))
    known = write(tmp_path / "known", [f"p{who}_00{n}.wav" for who in range(220, 226) for n in range(2)])
    settings = MIXED | dict(replay_root=None, replay_speech=known, replay_noise=noise, replay_rir=None)
    settings |= dict(replay_validation_speakers=[], replay_validation_files=None, replay_suffix=None)
    settings |= dict(noise=noise, replay_ratio=0.5, replay_hours=None)
    with pytest.raises(UserError, match="data.speech: .* too few to hold any out"):
        finetune(own, **settings).setup()
    found = speakers(finetune(own, **settings, validation_speech=validating))
    assert sum(map(len, found.values())) == 6 and all(found.values())
    found = speakers(finetune(None, **settings))  # own noise alone: both parts hold out the same speakers
    assert sum(map(len, found.values())) == 6 and all(found.values())


def test_pairs_hold_out_speakers_of_known_corpora_or_files_on_request(tmp_path):
    def pairs(folder, names):
        write(folder / "noisy", [f"{name}_fileid_{number}.wav" for number, name in enumerate(names)])
        write(folder / "clean", [f"clean_fileid_{number}.wav" for number in range(len(names))])
        return str(folder)

    settings = dict(test_root=None, test="auto", validation_share=0.2) | LOADING
    vctk = pairs(tmp_path / "vctk", [f"p{who}_00{n}_door_snr5_tl-20" for who in range(220, 230) for n in range(2)])
    found = speakers(dns_pairs(vctk, **settings))
    assert not found["train"] & found["validation"] and len(found["train"] | found["validation"]) == 10
    plain = pairs(tmp_path / "plain", ["noisy"] * 6)
    with pytest.raises(UserError, match=r"data.root=.*6 files tell 0 reader.*data.held_out_by=file"):
        dns_pairs(plain, **settings).setup()
    data = dns_pairs(plain, **settings, held_out_by="file")
    data.setup()
    assert len(data.dataset("train")) + len(data.dataset("validation")) == 6
    assert data.title("test").startswith("test (on the validation set")


def test_noisy_recordings_hold_out_files_or_speakers(tmp_path):
    root = write(tmp_path / "root", [f"{who}/{n}.wav" for who in ("anna", "ben", "carl") for n in range(4)])
    settings = dict(validation_share=0.3, resample="on_the_fly") | LOADING
    found = speakers(noisy(root, **settings, held_out_by="speaker"))
    assert not found["train"] & found["validation"] and len(found["train"] | found["validation"]) == 3
    with pytest.raises(UserError, match=r"tell 0 speakers.*data.held_out_by=file"):
        noisy(write(tmp_path / "plain", ["a.wav", "b.wav"]), **settings, held_out_by="speaker").setup()
