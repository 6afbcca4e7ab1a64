"""Recordings of noisy speech alone are used for training and validation, and never taken for clean speech."""

import numpy as np
import pytest
import soundfile

from gtcrn.data.noisy import NoisyRecordings
from gtcrn.data.speech import noisy
from gtcrn.errors import UserError

LOADING = dict(
    sample_rate=16000, segment_seconds=0.5, batch_size=2, num_workers=0, seed=1, short="pad", resample="on_the_fly"
)


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(7):
        (tmp_path / f"day{i % 2}").mkdir(exist_ok=True)
        soundfile.write(tmp_path / f"day{i % 2}" / f"{i}.wav", rng.normal(0, 0.1, 16000), 16000)
    return tmp_path


@pytest.mark.parametrize(("share", "held_out"), [(1e-9, 1), (0.9999, 6)])
def test_some_train_and_others_validate_however_the_share(folder, share, held_out):
    corpus = NoisyRecordings(str(folder), share)
    train, validation = ({pair.name for pair in corpus.pairs(split)} for split in ("train", "validation"))
    assert len(validation) == held_out and len(train) == 7 - held_out and not train & validation
    assert {pair.name for pair in corpus.pairs("test")} == validation


def test_items_hold_no_clean_speech(folder, tmp_path):
    data = noisy(str(folder), 0.2, cache_dir=tmp_path / "cache", **LOADING)
    data.setup()
    batch = next(iter(data.train_loader()))
    assert batch["noisy"].shape == (2, 8000) and batch["noisy"].std() > 0.05
    assert "clean" not in batch and "clean" not in data.dataset("validation")[0]


@pytest.mark.parametrize(
    ("root", "share", "complaint"),
    [
        (None, 0.1, "data.root is not set: give data.root=FOLDER, with recordings of noisy speech"),
        ("nowhere", 0.1, "data.root=nowhere should hold two recordings or more"),
        ("nowhere", 1.0, "data.validation_share=1.0: must lie between 0 and 1"),
    ],
)
def test_mistakes_are_named(root, share, complaint):
    with pytest.raises(UserError, match=complaint):
        NoisyRecordings(root, share).pairs("train")
