"""task=inspect on real recordings: it writes the items that a model would get, and names every mistake."""

import logging
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile

from gtcrn.errors import UserError
from gtcrn.tasks.building import build


@pytest.fixture
def inspected(perform):
    def run(folder: Path, *overrides: str):
        return perform("task=inspect", f"run_dir={folder / 'out'}", f"data.cache_dir={folder / 'cache'}", *overrides)

    return run


def wave(folder: Path, name: str) -> np.ndarray:
    assert soundfile.info(folder / "out" / name).subtype == "FLOAT"
    return soundfile.read(folder / "out" / name, dtype="float32")[0]


@pytest.fixture
def mixtures(recordings, tmp_path):
    """Return overrides for mixtures; one of their speech files is garbage."""
    speech = tmp_path / "speech"
    speech.mkdir()
    for path in (recordings / "dns_mini" / "extra_clean").glob("*.wav"):
        (speech / path.name).symlink_to(path)
    (speech / "garbage.wav").write_text("garbage")
    mini = recordings / "dns_mini"
    places = f"data.speech={speech}", f"data.noise={mini / 'noise'}", f"data.rir={mini / 'rir'}"
    return ("data=dns", "data.held_out_by=file", *places)


def test_a_mixture_is_the_item_and_the_sum_of_its_parts(inspected, mixtures, tmp_path, capsys):
    cfg = inspected(
        tmp_path, *mixtures, "n=3", "index=1", "epoch=2", "data.recipe.reverb=1", "data.recipe.band_limit=1"
    )
    data = build(cfg.data)
    data.on_bad_file = "skip"
    data.setup(("train",))
    table = pd.read_csv(tmp_path / "out" / "items.csv", index_col="index")
    report, screen = (tmp_path / "out" / "items.md").read_text(), capsys.readouterr().out
    assert list(table.index) == [1, 2, 3]
    for index, row in table.iterrows():
        parts = {name: wave(tmp_path, f"{index:03d}_{name}.wav") for name in ("clean", "reverberation", "noise")}
        noisy = wave(tmp_path, f"{index:03d}_noisy.wav")
        assert np.array_equal(noisy, data.dataset("train")[2, index]["noisy"])
        assert np.allclose(sum(parts.values()), noisy, atol=1e-6)
        assert row["noisy_rms"] == pytest.approx(10 * np.log10(np.mean(noisy**2)), abs=1e-3)
        assert row["clean_peak"] == pytest.approx(20 * np.log10(np.abs(parts["clean"]).max()), abs=1e-3)
        assert row["level"] == pytest.approx(row["noisy_rms"], abs=1e-3)
        assert row["target"] == "early" and 2500 <= row["band_limit"] <= 7500
        assert row["room"] == Path(row["rir"]).stem
        for source in ("speech", "noise"):
            assert Path(row[source].split(" from ")[0]).is_file()
            assert row[source] in report
        for told in (row["name"], row["room"], f"{row['snr']:.1f}"):
            assert told in report and told in screen
    assert data.describe()[0] in report
    assert "garbage.wav: not readable as audio" in report
    assert (tmp_path / "out" / "items.png").stat().st_size > 50_000


def test_pairs_show_what_is_known_of_them(inspected, recordings, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    corpus = f"data.root={recordings / 'vctk_demand_mini'}"
    inspected(tmp_path, "data=vctk_demand", corpus, "data.validation_files=[p287_005,p287_006]", "split=validation")
    table = pd.read_csv(tmp_path / "out" / "items.csv")
    assert list(table["name"]) == ["p287_005", "p287_006"]
    assert "room" not in table and table["snr"].notna().all()
    assert np.array_equal(
        wave(tmp_path, "000_noise.wav"), wave(tmp_path, "000_noisy.wav") - wave(tmp_path, "000_clean.wav")
    )
    assert "n=8: the validation set has only 2 items from index 0 on" in caplog.text
    assert any(line.startswith("validation: 2 files") for line in caplog.messages)


def test_blind_recordings_have_no_clean_half(inspected, recordings, tmp_path):
    blind = f"data.test_root={recordings / 'vctk_demand_mini' / 'noisy'}"
    inspected(tmp_path, "data=dns_pairs", blind, "data.test=blind", "split=test", "index=[5,2]")
    assert sorted(path.name for path in (tmp_path / "out").glob("*.wav")) == ["002_noisy.wav", "005_noisy.wav"]
    table = pd.read_csv(tmp_path / "out" / "items.csv", index_col="index")
    assert list(table.index) == [5, 2] and "clean" not in table and "snr" not in table


def test_items_without_speech_or_noise(inspected, mixtures, tmp_path):
    inspected(tmp_path, *mixtures, "n=3", "data.recipe.noise_only=0.5", "data.recipe.clean_only=0.5")
    table = pd.read_csv(tmp_path / "out" / "items.csv")
    assert set(table["snr"]) == {np.inf, -np.inf}
    assert "∞" in (tmp_path / "out" / "items.md").read_text()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("split=tset", "split=tset: must be one of train, validation, test"),
        ("n=0", "n=0: must be a whole number of at least 1"),
        ("epoch=-1", "epoch=-1: must be a whole number of at least 0"),
        ("index=9", "index=9: the train set has the items 0 to 7"),
        ("index=[0,-1]", r"index=\[0, -1\]: must be a whole number of at least 0 or a list of"),
        ("index=[]", r"index=\[\]: the train set"),
        ("index=x", "index=x: must be a whole number of at least 0 or a list"),
    ],
)
def test_mistakes_are_named(inspected, mixtures, tmp_path, override, message):
    with pytest.raises(UserError, match=message):
        inspected(tmp_path, *mixtures, override)
