import shutil
from math import isnan

import numpy as np
import pytest

from gtcrn.data import audio
from gtcrn.data.vctk_demand import VctkDemand
from gtcrn.errors import UserError

VALIDATION = ["p226", "p287"]


def make_official(root, folders=("trainset_28spk_wav", "testset_wav"), speakers=None, rate=16000):
    """Write a tiny tree in the layout as downloaded: two files per speaker, noise of a tenth of the speech."""
    speakers = speakers or {"trainset_28spk": ["p226", "p250", "p287"], "testset": ["p232"]}
    rng = np.random.default_rng(0)
    for folder in folders:
        for speaker in speakers[folder.split("_wav")[0]]:
            for number in (1, 2):
                clean = rng.uniform(-0.3, 0.3, rate).astype(np.float32)
                noisy = clean + 0.1 * rng.uniform(-0.3, 0.3, rate).astype(np.float32)
                for half, wave in (("noisy", noisy), ("clean", clean)):
                    audio.write(root / f"{half}_{folder}" / f"{speaker}_00{number}.wav", wave, rate)
    return root


def names(pairs):
    return [pair.name for pair in pairs]


@pytest.mark.parametrize("ending", ["", "_16k", "_16kHz"])
def test_official_layout(tmp_path, ending):
    make_official(tmp_path, (f"trainset_28spk_wav{ending}", f"testset_wav{ending}"))
    corpus = VctkDemand(tmp_path, ["28spk"], VALIDATION)
    assert names(corpus.pairs("train")) == ["p250_001", "p250_002"]
    assert names(corpus.pairs("validation")) == ["p226_001", "p226_002", "p287_001", "p287_002"]
    assert names(corpus.pairs("test")) == ["p232_001", "p232_002"]
    pair = corpus.pairs("test")[0]
    assert pair.speaker == "p232"
    assert pair.noisy == tmp_path / f"noisy_testset_wav{ending}" / "p232_001.wav"
    assert pair.clean.is_file()


def test_two_copies_of_the_corpus_need_a_choice(tmp_path):
    make_official(tmp_path, ("testset_wav", "testset_wav_16k"))
    with pytest.raises(UserError, match="data.suffix"):
        VctkDemand(tmp_path, ["28spk"], VALIDATION).pairs("test")
    for suffix in ("", "_16k"):
        pair = VctkDemand(tmp_path, ["28spk"], VALIDATION, suffix=suffix).pairs("test")[0]
        assert pair.noisy.parent.name == f"noisy_testset_wav{suffix}"


def test_both_training_sets(tmp_path):
    speakers = {"trainset_28spk": ["p226", "p287"], "trainset_56spk": ["p234"]}
    make_official(tmp_path, ("trainset_28spk_wav", "trainset_56spk_wav"), speakers)
    assert names(VctkDemand(tmp_path, ["28spk", "56spk"], VALIDATION).pairs("train")) == [
        "p234_001",
        "p234_002",
    ]
    with pytest.raises(UserError, match="30spk"):
        VctkDemand(tmp_path, ["30spk"], VALIDATION)


def test_testing_needs_no_training_data(tmp_path):
    make_official(tmp_path, ("testset_wav",))
    corpus = VctkDemand(tmp_path, ["28spk"], VALIDATION)
    assert len(corpus.pairs("test")) == 2
    with pytest.raises(UserError, match="noisy_trainset_28spk_wav"):
        corpus.pairs("train")


@pytest.mark.parametrize("folder", [".", "logfiles"])
def test_snr_and_noise_come_from_the_log(tmp_path, folder):
    make_official(tmp_path, ("testset_wav",))
    (tmp_path / folder).mkdir(exist_ok=True)
    (tmp_path / folder / "log_testset.txt").write_text("file noise snr\np232_001 bus 17.5\n\n")
    first, second = VctkDemand(tmp_path, ["28spk"], VALIDATION).pairs("test")
    assert (first.snr, first.noise) == (17.5, "bus")
    assert isnan(second.snr) and not second.noise


def test_the_mini_corpus_is_split_by_files(recordings):
    root = recordings / "vctk_demand_mini"
    corpus = VctkDemand(root, ["28spk"], VALIDATION, ["p287_005", "p287_006"], test="validation")
    assert names(corpus.pairs("train")) == ["p287_001", "p287_002", "p287_003", "p287_004"]
    assert names(corpus.pairs("validation")) == names(corpus.pairs("test")) == ["p287_005", "p287_006"]
    assert len(VctkDemand(root, ["28spk"], VALIDATION, test="all").pairs("test")) == 6


def test_the_training_files_never_become_the_test_set_by_themselves(recordings):
    """A simple layout has no official test set: the validation pairs replace it, and all pairs only if none trains."""
    root = recordings / "vctk_demand_mini"
    corpus = VctkDemand(root, ["28spk"], [], ["p287_002"])
    assert [pair.name for pair in corpus.pairs("test")] == ["p287_002"]
    assert "p287_002" not in {pair.name for pair in corpus.pairs("train")}
    assert len(VctkDemand(root, ["28spk"], ["p000"]).pairs("test")) == 6
    with pytest.raises(UserError, match="data.validation_speakers names p000"):
        VctkDemand(root, ["28spk"], ["p000"]).pairs("train")


def test_a_speaker_or_file_that_is_not_there_is_named(recordings, caplog):
    root = recordings / "vctk_demand_mini"
    assert len(VctkDemand(root, ["28spk"], VALIDATION).pairs("validation")) == 6
    assert "data.validation_speakers names p226, not in" in caplog.text
    with pytest.raises(UserError, match="takes all 6 pairs and leaves none to train on"):
        VctkDemand(root, ["28spk"], VALIDATION).pairs("train")
    with pytest.raises(UserError, match=r"data.validation_files names p287_999, .*there: p287_001"):
        VctkDemand(root, ["28spk"], VALIDATION, ["p287_001", "p287_999"]).pairs("validation")


def test_a_wrong_root_is_answered_with_the_layouts(tmp_path):
    (tmp_path / "file").touch()
    for root, reason in (
        (None, "not set"),
        (tmp_path / "none", "not a folder"),
        (tmp_path / "file", "not a folder"),
    ):
        with pytest.raises(UserError, match=reason) as error:
            VctkDemand(root, ["28spk"], VALIDATION)
        assert "noisy_testset_wav" in str(error.value)
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="noisy_trainset_28spk_wav.*simply noisy and clean"):
        VctkDemand(tmp_path, ["28spk"], VALIDATION).pairs("train")
    for half in ("noisy", "clean"):
        (tmp_path / half).mkdir()
    with pytest.raises(UserError, match="no audio files"):
        VctkDemand(tmp_path, ["28spk"], VALIDATION).pairs("train")
    with pytest.raises(UserError, match="data.test=train"):
        VctkDemand(tmp_path, ["28spk"], VALIDATION, test="train")


def test_two_files_of_one_name_are_refused(tmp_path):
    make_official(tmp_path, ("testset_wav",))
    folder = tmp_path / "noisy_testset_wav"
    (folder / "more").mkdir()
    shutil.copy(folder / "p232_001.wav", folder / "more")
    with pytest.raises(UserError, match="rename one"):
        VctkDemand(tmp_path, ["28spk"], VALIDATION).pairs("test")
