import numpy as np
import pandas as pd
import pytest

from gtcrn.data import audio
from gtcrn.data.manifest import open_manifest
from gtcrn.data.preparation.packing import Pack
from gtcrn.data.preparation.selection import Filter

RATE = 16000


@pytest.fixture
def speech(recordings, tmp_path):
    """Write five files, all but the first of which have a flaw."""
    wave = audio.load(recordings / "vctk_demand_mini" / "clean" / "p287_003.wav", RATE)
    noise = np.random.default_rng(0).standard_normal(len(wave)).astype(np.float32)
    made = {
        "good": wave,
        "noisy": wave + 0.02 * noise,
        "sub/clipped": np.clip(20 * wave, -0.9, 0.9),
        "sub/narrow": audio.resample(audio.resample(wave, RATE, 8000), 8000, RATE),
        "sub/silent": np.concatenate([wave, 1e-4 * np.tile(noise, 5)]),
    }
    for name, wave in made.items():
        audio.write(tmp_path / "in" / f"{name}.wav", wave, RATE)
    (tmp_path / "in" / "broken.wav").write_text("no audio")
    return tmp_path / "in"


def test_what_is_beyond_a_limit_is_left_out_for_that_reason(prepare, speech, tmp_path):
    prepare(Filter(15, 0.0005, 0.8, 6000), speech, tmp_path / "out")
    table = pd.read_csv(tmp_path / "out" / "quality.csv", index_col="path").fillna({"left_out": ""})
    assert table["left_out"].to_dict() == {
        "good.wav": "",
        "noisy.wav": "snr below 15",
        "sub/clipped.wav": "clipping above 0.0005",
        "sub/narrow.wav": "bandwidth below 6000",
        "sub/silent.wav": "silence above 0.8",
        "broken.wav": "not readable as audio: Format not recognised",
    }
    (kept,) = open_manifest(tmp_path / "out", "input", None)
    (known,) = (file for file in open_manifest(speech, "input", tmp_path / "cache") if file.path.stem == "good")
    assert kept == known and kept.path == speech / "good.wav"


def test_other_limits_need_no_new_measures(prepare, speech, tmp_path, monkeypatch):
    prepare(Filter(15, 0.0005, 0.8, 6000), speech, tmp_path / "out")
    monkeypatch.setattr("gtcrn.data.preparation.selection.measure", None)
    prepare(Filter(None, None, None, 6000), speech, tmp_path / "out")
    kept = {file.path.stem for file in open_manifest(tmp_path / "out", "input", None)}
    assert kept == {"good", "noisy", "clipped", "silent"}
    prepare(Filter(None, None, None, None), speech, tmp_path / "out")
    assert len(open_manifest(tmp_path / "out", "input", None)) == 5


def test_what_is_kept_of_a_packed_corpus_is_read_from_there(prepare, speech, tmp_path):
    prepare(Pack(1, False), speech, tmp_path / "packed")
    prepare(Filter(15, 0.0005, 0.8, 6000), tmp_path / "packed", tmp_path / "out")
    files = open_manifest(tmp_path / "out", "input", None)
    np.testing.assert_array_equal(audio.read(files[0].path)[0], audio.read(speech / "good.wav")[0])
    assert files.column("name").tolist() == ["good.wav"]
