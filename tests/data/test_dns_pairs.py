"""The DNS Challenge's layouts and names, splits by readers, and every way in which a file has no other half."""

import tarfile
from math import isnan, nan

import numpy as np
import pyarrow as pa
import pytest

from gtcrn.data import audio
from gtcrn.data.dns_pairs import DnsPairs
from gtcrn.data.shards import INDEX
from gtcrn.data.speech import SpeechData, dns_pairs
from gtcrn.data.tables import write_table
from gtcrn.errors import UserError

CLIP = "book_00000_chp_0009_reader_{:05d}_1_seg_1_seg1"


def touch(folder, *files):
    """Write files that have the right names alone, since no file is read before the scan."""
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).touch()
    return folder


def make_corpus(root, readers=8):
    """Write two files per reader, 0.25 s each, noise of a tenth of the speech; the first one's name has the SNR."""
    rng = np.random.default_rng(0)
    for number in range(2 * readers):
        clean, noise = rng.uniform(-0.3, 0.3, (2, 4000)).astype(np.float32)
        name = f"{CLIP.format(number // 2)}{'_door' if number % 2 else '_snr19'}_tl-27_fileid_{number}"
        for half, file, wave in (
            ("noisy", name, clean + 0.1 * noise),
            ("clean", f"clean_fileid_{number}", clean),
            ("noise", f"noise_fileid_{number}", 0.1 * noise),
        ):
            audio.write(root / half / f"{file}.wav", wave, 16000)
    return root


def speech_data(root, cache, test_root=None, test="auto", **changed) -> SpeechData:
    loading = dict(sample_rate=16000, segment_seconds=0.25, batch_size=1, num_workers=0, seed=5, cache_dir=cache)
    return dns_pairs(root and str(root), test_root and str(test_root), test, 0.2, **(loading | changed))


def found(root, test="all", test_root=None) -> dict[str, str]:
    """Return {name of a pair: name of its clean half} of the good pairs of the test set."""
    pairs = DnsPairs(root, test_root, test, 0.5).pairs("test")
    return {pair.name: pair.clean.stem for pair in pairs if not pair.problem}


def test_names_of_the_synthesiser(tmp_path):
    name = "book_00000_chp_0009_reader_06709_1_seg_1_seg1_snr19_tl-27_fileid_100"
    touch(tmp_path, f"noisy/{name}.wav", "clean/clean_fileid_100.wav", "noise/noise_fileid_100.wav")
    touch(tmp_path, "noisy/p225_001_fileid_10.wav", "clean/clean_fileid_10.wav")
    plain, official = DnsPairs(tmp_path, None, "all", 0.5).pairs("test")  # by number
    assert official.name == name and official.noisy == tmp_path / "noisy" / f"{name}.wav"
    assert official.clean == tmp_path / "clean" / "clean_fileid_100.wav"
    assert (official.speaker, official.snr, official.problem) == ("reader_06709", 19, "")
    assert (plain.name, plain.speaker) == ("p225_001_fileid_10", "p225") and isnan(plain.snr)


@pytest.mark.parametrize(
    ("name", "snr"),
    [
        ("clnsp1_train_69005_1_snr15_tl-21_fileid_158", 15),
        ("book_01_chp_0001_reader_00001_0_door_snr-5_tl-30_fileid_1", -5),
        ("clip_of_snr3_of_others_snr12_tl-20_fileid_1", 12),
        ("nonenglish_synthetic_male_SNR_21.0dB_german_1", 21),
        ("ms_realrec_emotional_female_SNR_17.74dB_headset_A2AHXGFXPG6ZSR_Water_far_Laughter_12", 17.74),
        ("ms_realrec_headset_cafe_spk2_3", nan),
    ],
)
def test_snrs_and_dots_in_names(tmp_path, name, snr):
    (pair,) = DnsPairs(None, touch(tmp_path, f"{name}.wav"), "blind", 0.5).pairs("test")
    assert pair.name == name and pair.clean is None
    assert pair.snr == pytest.approx(snr, nan_ok=True)


def test_an_snr_that_no_name_states_is_measured(tmp_path):
    data = speech_data(make_corpus(tmp_path / "corpus"), tmp_path, test="all")
    data.setup(("test",))
    for pair in data.dataset("test").pairs:
        assert pair.snr == (19 if "_snr19" in pair.name else pytest.approx(20, abs=0.5))


def test_several_sets_in_one_folder(tmp_path):
    """In the test set of the second challenge a clean half is found by its number and by the beginning of its name."""
    noisy = {
        "synthetic_emotion_157018_snr14_tl-22_fileid_47": "synthetic_emotion_clean_fileid_47",
        "synthetic_singing_195940_snr3_tl-32_fileid_47": "synthetic_singing_clean_fileid_47",
        "synthetic_spanish_birds_413745_10_snr3_tl-28_fileid_47": "synthetic_clean_fileid_47",
    }
    folder = tmp_path / "ICASSP_dev_test_set" / "track_1" / "synthetic"
    touch(folder, *(f"noisy/{name}.wav" for name in noisy), *(f"clean/{name}.wav" for name in noisy.values()))
    touch(tmp_path / "ICASSP_dev_test_set" / "track_1", "real_recordings/realrec_english_wer_Mobile_41.wav")
    halves = found(None, "auto", tmp_path)
    assert halves == {f"ICASSP_dev_test_set/track_1/synthetic/{name}": clean for name, clean in noisy.items()}


@pytest.fixture
def challenge(tmp_path):
    """Write test sets in the layout of the first challenge's repository."""
    root = tmp_path / "datasets" / "test_set"
    for name in ("no_reverb", "with_reverb"):
        file = "clnsp1_train_69005_1_snr15_tl-21_fileid_158"
        touch(root / "synthetic" / name, f"noisy/{file}.wav", "clean/clean_fileid_158.wav")
    touch(root, "real_recordings/audioset_realrec_car_00fs8Gpipss.wav")
    return root


@pytest.mark.parametrize("depth", ["", "synthetic", "../.."])
def test_test_sets_at_any_depth(challenge, depth):
    root = challenge / depth
    for test, names in (
        ("no_reverb", ["no_reverb"]),
        ("with_reverb", ["with_reverb"]),
        ("auto", ["no_reverb", "with_reverb"]),
    ):
        pairs = DnsPairs(None, root, test, 0.5).pairs("test")
        assert [pair.noisy.parents[1].name for pair in pairs] == names
        assert [pair.clean.parents[1].name for pair in pairs] == names
        assert len({pair.name for pair in pairs}) == len(names)


def test_a_test_set_itself(challenge):
    name = "clnsp1_train_69005_1_snr15_tl-21_fileid_158"
    for test in ("no_reverb", "auto"):
        assert found(None, test, challenge / "synthetic" / "no_reverb") == {name: "clean_fileid_158"}
    assert found(None, "no_reverb", challenge / "synthetic") == {f"no_reverb/{name}": "clean_fileid_158"}
    with pytest.raises(UserError, match="has no folder with_reverb with noisy and clean.*data.test=blind"):
        found(None, "with_reverb", challenge / "synthetic" / "no_reverb")


def test_packed_test_sets(tmp_path, challenge):
    packed = tmp_path / "packed"
    packed.mkdir()
    with tarfile.open(packed / "shard-000000.tar", "w") as archive:
        archive.add(challenge, ".")
    with tarfile.open(packed / "shard-000000.tar") as archive:
        members = [member for member in archive if member.isfile()]
    paths = [f"shard-000000.tar@{member.offset_data}+{member.size}" for member in members]
    names = [member.name.removeprefix("./") for member in members]
    write_table(pa.table({"name": names, "path": paths}), packed / INDEX)
    of_folder, of_pack = (DnsPairs(None, root, "auto", 0.5).pairs("test") for root in (challenge, packed))
    assert [pair.name for pair in of_pack] == [pair.name for pair in of_folder]
    assert {pair.noisy.name for pair in of_pack} < set(paths)


def test_readers_train_or_validate(tmp_path):
    files = [f"{CLIP.format(reader)}_snr5_tl-20_fileid_{4 * reader + n}" for reader in range(50) for n in range(4)]
    touch(tmp_path, *(f"noisy/{file}.wav" for file in files), *(f"clean/clean_fileid_{n}.wav" for n in range(200)))
    corpus = DnsPairs(tmp_path, None, "auto", 0.2)
    train, validation = ({pair.speaker for pair in corpus.pairs(split)} for split in ("train", "validation"))
    assert len(corpus.pairs("train")) + len(corpus.pairs("validation")) == 200
    assert not train & validation and len(train | validation) == 50
    assert 5 <= len(validation) <= 15
    assert corpus.pairs("test") == corpus.pairs("validation")

    touch(tmp_path, *(f"noisy/{CLIP.format(n)}_snr5_tl-20_fileid_{n}.wav" for n in range(1000, 1100)))
    touch(tmp_path, *(f"clean/clean_fileid_{n}.wav" for n in range(1000, 1100)))
    assert train < {pair.speaker for pair in corpus.pairs("train")}
    assert validation < {pair.speaker for pair in corpus.pairs("validation")}
    tiny = DnsPairs(tmp_path, None, "auto", 1e-9)
    assert len({pair.speaker for pair in tiny.pairs("validation")}) == 1


def test_files_of_several_readers(tmp_path):
    """The synthesiser joins clips with a hyphen: no reader may come into both sets by way of a second clip."""
    files = [
        f"{CLIP.format(first)}-{CLIP.format(second)}_door_snr5_tl-20_fileid_{20 * first + second}"
        for first in range(20)
        for second in range(20)
    ]
    touch(tmp_path, *(f"noisy/{file}.wav" for file in files), *(f"clean/clean_fileid_{n}.wav" for n in range(400)))
    corpus = DnsPairs(tmp_path, None, "auto", 0.3)
    seen = {}
    for split in ("train", "validation"):
        names = [pair.name for pair in corpus.pairs(split)]
        seen[split] = {part[7:12] for name in names for part in name.replace("chp_0009_", "").split("book_00000_")[1:]}
        assert len(names) == len(seen[split]) ** 2
    assert not seen["train"] & seen["validation"] and len(seen["train"] | seen["validation"]) == 20


def test_one_reader_is_too_few(tmp_path):
    touch(tmp_path, *(f"noisy/{CLIP.format(1)}_fileid_{n}.wav" for n in range(3)))
    touch(tmp_path, *(f"clean/clean_fileid_{n}.wav" for n in range(3)))
    with pytest.raises(UserError, match=r"3 files tell 1 reader.*, too few .*data.held_out_by=file"):
        DnsPairs(tmp_path, None, "auto", 0.02).pairs("train")


def spoil(root, kind):
    """Make one file bad; return the file and a pattern of the message that must name it."""
    noisy, clean = root / "noisy" / f"{CLIP.format(1)}_snr19_tl-27_fileid_2.wav", root / "clean" / "clean_fileid_2.wav"
    match kind:
        case "noisy file without a number":
            return noisy.rename(root / "noisy" / "door.wav"), "misnamed: no fileid_N at the end of its name"
        case "clean file without a number":
            return clean.rename(root / "clean" / "clean_2.wav"), "misnamed: no fileid_N at the end of its name"
        case "no clean half":
            clean.unlink()
            return noisy, "its clean half is missing"
        case "no noisy half":
            noisy.unlink()
            return clean, "its noisy half is missing"
        case "a number twice":  # the synthesiser ran again into the same folder and wrote over clean_fileid_2
            twin = root / "noisy" / f"{CLIP.format(7)}_snr4_tl-30_fileid_2.wav"
            twin.write_bytes(noisy.read_bytes())
            return twin, "has .*clean_fileid_2.wav in common with another noisy file"
        case "other length":
            audio.write(noisy, audio.read(noisy)[0][1:], 16000)
            return noisy, "3999 samples at 16000 Hz, but its clean half has 4000"


KINDS = [
    "noisy file without a number",
    "clean file without a number",
    "no clean half",
    "no noisy half",
    "a number twice",
    "other length",
]


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_without_its_other_half_is_named(tmp_path, kind):
    root = make_corpus(tmp_path / "corpus")
    culprit, problem = spoil(root, kind)
    with pytest.raises(UserError, match=f"{culprit.name}: {problem}") as error:
        speech_data(root, tmp_path).setup()
    assert "\n" not in str(error.value) and "data.on_bad_file=skip" in str(error.value)
    data = speech_data(root, tmp_path, on_bad_file="skip")
    data.setup(("train", "validation"))
    assert culprit in {bad.path for bad in data.bad_files} and len(data.bad_files) <= 2
    kept = [
        data.dataset(split)[i]["name"] for split in ("train", "validation") for i in range(len(data.dataset(split)))
    ]
    assert len(kept) == 15 and not any(name.endswith("fileid_2") for name in kept)


def test_names_without_numbers_neither_match_nor_stand_for_readers(tmp_path):
    touch(tmp_path, *(f"noisy/{CLIP.format(n)}_snr5_tl-20_fileid_{n}.wav" for n in range(2)))
    touch(tmp_path, *(f"clean/clean_fileid_{n}.wav" for n in range(2)))
    touch(tmp_path, *(f"noisy/door_{n}.wav" for n in range(50)), "clean/door.wav")
    for split in ("train", "validation"):
        pairs = DnsPairs(tmp_path, None, "auto", 1e-9).pairs(split)
        assert len(pairs) == 52 and sum(not pair.problem for pair in pairs) == 1


def test_what_is_wrong_as_a_pair_may_be_right_as_a_recording(tmp_path):
    """Both results for the same file are cached in one file, and must not be mistaken for each other."""
    root = make_corpus(tmp_path / "corpus")
    culprit, _ = spoil(root, "noisy file without a number")
    for _ in range(2):
        blind = speech_data(None, tmp_path, test_root=root, test="blind")
        blind.setup(("test",))
        assert "noisy/door" in [pair.name for pair in blind.dataset("test").pairs]
        pairs = speech_data(root, tmp_path, on_bad_file="skip")
        pairs.setup(("train", "validation"))
        assert culprit in {bad.path for bad in pairs.bad_files}


def test_blind_recordings_have_no_clean_half(tmp_path, recordings):
    data = speech_data(None, tmp_path, recordings / "vctk_demand_mini" / "noisy", "blind")
    data.setup(("test",))
    assert data.describe()[0].startswith("test: 6 files, 0.5 min")
    batches = list(data.test_loader())
    assert [batch["name"] for batch in batches] == [[f"p287_00{n}"] for n in range(1, 7)]
    assert all(batch.keys() == {"noisy", "name", "snr", "noise", "index"} for batch in batches)


def test_blind_recordings_at_48_khz(tmp_path, recordings):
    waves = []
    for resample in ("cache", "on_the_fly"):
        folder = recordings / "fullband_mini" / "speech"
        data = speech_data(None, tmp_path, folder, "blind", resample=resample)
        data.setup(("test",))
        waves.append(data.dataset("test")[0]["noisy"].numpy())
    original, rate = audio.read(sorted(folder.glob("*.wav"))[0])
    assert rate == 48000 and len(waves[0]) == round(len(original) / 3)
    np.testing.assert_allclose(*waves, atol=1e-6)


def test_a_broken_link_among_the_recordings(tmp_path, recordings):
    folder = tmp_path / "blind"
    folder.mkdir()
    (folder / "good.wav").symlink_to(recordings / "vctk_demand_mini" / "noisy" / "p287_001.wav")
    (folder / "gone.wav").symlink_to(tmp_path / "nowhere.wav")
    with pytest.raises(UserError, match="gone.wav: missing"):
        speech_data(None, tmp_path, folder, "blind").setup(("test",))


def test_wrong_folders_and_choices_are_answered(tmp_path):
    for root, reason in (
        (None, "data.root is not set"),
        (tmp_path / "none", "not a folder"),
        (tmp_path, "should hold"),
    ):
        with pytest.raises(UserError, match=f"{reason}.*noisy and clean"):
            DnsPairs(root, None, "auto", 0.5).pairs("train")
    for half in ("noisy", "clean"):
        (tmp_path / "corpus" / half).mkdir(parents=True)
    with pytest.raises(UserError, match="hold no audio files"):
        DnsPairs(tmp_path / "corpus", None, "auto", 0.5).pairs("train")
    with pytest.raises(UserError, match="holds no audio files"):
        DnsPairs(None, tmp_path / "corpus", "blind", 0.5).pairs("test")
    with pytest.raises(UserError, match="none is not a folder; it should hold recordings"):
        DnsPairs(None, tmp_path / "none", "blind", 0.5).pairs("test")
    with pytest.raises(UserError, match="data.test=blind needs data.test_root=FOLDER"):
        DnsPairs(tmp_path, None, "blind", 0.5)
    with pytest.raises(UserError, match="data.test=reverb is not one of auto"):
        DnsPairs(tmp_path, None, "reverb", 0.5)
    with pytest.raises(UserError, match="data.validation_share=1: must lie between 0 and 1"):
        DnsPairs(tmp_path, None, "auto", 1)


def test_several_corpora_have_one_test_set(tmp_path):
    roots = {name: {"path": str(make_corpus(tmp_path / name)), "weight": 1} for name in ("one", "two")}
    test_root = str(make_corpus(tmp_path / "test", readers=2))
    loading = dict(sample_rate=16000, segment_seconds=0.25, batch_size=1, num_workers=0, seed=5, cache_dir=tmp_path)
    data = dns_pairs(roots, test_root, "auto", 0.2, **loading)
    data.setup(("test",))
    assert len(data.dataset("test")) == 4
    validated = dns_pairs(roots, test_root, "validation", 0.2, **loading)
    validated.setup(("validation", "test"))
    assert len(validated.dataset("test")) == len(validated.dataset("validation")) > 4
