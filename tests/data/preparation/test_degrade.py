import numpy as np
import pandas as pd
import pytest

from gtcrn.data import audio
from gtcrn.data.mixing import Recipe
from gtcrn.data.preparation.degrade import Degrade
from gtcrn.data.preparation.jobs import run_job
from gtcrn.data.preparation.output import OutputFolder
from gtcrn.data.sources import MixSource
from gtcrn.data.speech import SpeechData
from gtcrn.data.vctk_demand import VctkDemand
from gtcrn.errors import UserError


@pytest.fixture
def data(recordings, corpus, tmp_path):
    """Return data(recipe, **settings of MixSource) -> SpeechData of mixtures."""

    def mixtures(recipe=Recipe(reverb=0.5), **settings):  # noqa: B008
        mini = recordings / "dns_mini"
        paths = str(corpus), str(mini / "noise"), str(mini / "rir")
        source = MixSource(*paths, recipe, "prefix", held_out=0.1, **settings)
        return SpeechData(
            source,
            sample_rate=16000,
            segment_seconds=1.0,
            batch_size=1,
            num_workers=0,
            seed=1,
            cache_dir=tmp_path / "c",
        )

    return mixtures


def degrade(step, folder):
    output = OutputFolder(folder)
    with output.locked():
        output.check_settings({})
        return run_job(step, step.work_items(), output, workers=1)


@pytest.mark.parametrize("split", ["train", "validation"])
def test_the_files_are_the_items(data, tmp_path, split):
    source = data()
    step = Degrade(source, split, 8, "float", False)
    assert degrade(step, tmp_path / "out").complete
    dataset = source.dataset(split)
    table = pd.read_csv(tmp_path / "out" / "table.csv")
    pairs = VctkDemand(tmp_path / "out", ["28spk"], []).pairs("train")
    assert [(pair.name, pair.speaker) for pair in pairs] == sorted(zip(table["name"], table["speaker"]))
    assert len(table) == 8
    for number, row in table.iterrows():
        key = divmod(number, len(dataset))
        assert key == (row["epoch"], row["index"])
        item = dataset.explain(key)
        for half in ("noisy", "clean"):
            wave, _ = audio.read(tmp_path / "out" / half / f"{row['name']}.wav")
            np.testing.assert_array_equal(wave, item.waves[half])
        assert row["speech"] == item.facts["speech"] and row["snr"] == pytest.approx(item.facts["snr"], abs=1e-3)
        assert row["name"] == f"{item.facts['speaker']}_{number:07d}"


def test_what_a_denoiser_makes_too_loud_is_turned_down_with_its_target(data, tmp_path):
    source = data(Recipe(level=(-20, -20)), denoise=loud)
    step = Degrade(source, "train", 5, "flac", False)
    assert degrade(step, tmp_path / "out").counts["turned down so as not to clip"] == 5
    item = source.dataset("train").explain((0, 0)).waves
    (name,) = pd.read_csv(tmp_path / "out" / "table.csv")["name"][:1]
    gain = (1 - 2**-15) / np.abs(item["noisy"]).max()
    for half in ("noisy", "clean"):
        wave, _ = audio.read(tmp_path / "out" / half / f"{name}.flac")
        np.testing.assert_allclose(wave, gain * item[half], atol=2**-15)


def loud(wave):
    return 20 * wave


def test_items_without_speech_are_no_pairs(data, tmp_path):
    step = Degrade(data(Recipe(noise_only=0.5)), "train", 12, "wav", False)
    outcome = degrade(step, tmp_path / "out")
    written = {half: {path.name for path in (tmp_path / "out" / half).iterdir()} for half in ("noisy", "clean")}
    assert 0 < len(outcome.bad) < 12 and "its clean half is silent" in str(outcome.bad[0])
    assert written["noisy"] == written["clean"] and len(written["clean"]) == 12 - len(outcome.bad)


def test_mistakes(data):
    with pytest.raises(UserError, match="prepare.split=tests"):
        Degrade(data(), "tests", None, "wav", False)
    with pytest.raises(UserError, match="prepare.items=0"):
        Degrade(data(), "train", 0, "wav", False)
