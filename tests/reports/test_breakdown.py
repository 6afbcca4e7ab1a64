"""Scores by SNR and speaker, and what was removed of speech and of noise, against signals of which it is known."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from gtcrn.data import audio
from gtcrn.errors import UserError
from gtcrn.reports.breakdown import (
    by_snr,
    by_speaker,
    common_scores,
    files_figure,
    groups_figure,
    noise_removed,
    read_signals,
    removal,
    removal_figure,
    side_by_side,
    spectrograms,
    speech_lost,
    weakest,
)

RATE = 16000


def runs_of(folder: Path, **scored: dict[str, tuple]) -> pd.DataFrame:
    """Runs by name as of `read_runs`, with scores {file: (snr, noisy, enhanced)}."""
    for run, files in scored.items():
        (folder / run).mkdir()
        rows = [(name, snr, noisy, enhanced, "") for name, (snr, noisy, enhanced) in files.items()]
        columns = ["name", "snr", "noisy_pesq_wb", "enhanced_pesq_wb", "failures"]
        pd.DataFrame(rows, columns=columns).to_csv(folder / run / "scores.csv", index=False)
    return pd.DataFrame({"run": list(scored), "path": [str(folder / run) for run in scored]})


@pytest.fixture
def table(tmp_path) -> pd.DataFrame:
    small = {"anna_1": (0, 1.0, 1.5), "anna_2": (5, 2.0, 2.1), "ben_1": (5, 2.0, 1.5)}
    large = {"anna_1": (0, 1.0, 2.0), "anna_2": (5, 2.0, 2.7), "ben_1": (5, 2.0, 2.5), "zoe_1": (9, 1, 1)}
    return common_scores(runs_of(tmp_path, small=small, large=large))


def test_means_by_snr(table):
    groups = by_snr(table, "pesq_wb")
    assert groups.index.tolist() == [("small", "0 dB"), ("small", "5 dB"), ("large", "0 dB"), ("large", "5 dB")]
    assert groups["improvement"].tolist() == pytest.approx([0.5, -0.2, 1.0, 0.6])
    assert groups["files"].tolist() == [1, 2, 1, 2], "zoe_1 was not a test file of both"


def test_means_by_speaker_who_gains_most_first(table):
    groups = by_speaker(table, "pesq_wb")
    assert groups.index.tolist() == [("small", "anna"), ("small", "ben"), ("large", "anna"), ("large", "ben")]
    assert groups["enhanced"].tolist() == pytest.approx([1.8, 1.5, 2.35, 2.5])
    assert groups["enhanced_ci95"].isna().tolist() == [False, True, False, True], "of one file there is no interval"


def test_the_files_that_gained_least(table):
    assert weakest(table, "pesq_wb")["improvement"].to_dict() == pytest.approx(
        {"ben_1": 0.0, "anna_2": 0.4, "anna_1": 0.75}
    )


def test_mistakes(tmp_path, table):
    with pytest.raises(UserError, match="METRIC=stoi: not scored in these runs; choose from pesq_wb"):
        by_snr(table, "stoi")
    (tmp_path / "other").mkdir()
    with pytest.raises(UserError, match="no test file is common to all 2 runs"):
        common_scores(runs_of(tmp_path / "other", one={"a": (0, 1, 1)}, two={"b": (0, 1, 1)}))


@pytest.mark.parametrize(
    ("name", "speaker"),
    [
        ("p226_001", "p226"),
        ("corpus/p226_001", "p226"),
        ("000012_p226_001", "p226"),
        ("reader_06709_snr5_fileid_3", "reader_06709"),
        ("x", "x"),
    ],
)
def test_speakers_in_names(tmp_path, name, speaker):
    assert common_scores(runs_of(tmp_path, one={name: (0, 1, 1)}))["speaker"].tolist() == [speaker]


def test_speakers_by_another_rule(tmp_path):
    scores = common_scores(runs_of(tmp_path, one={"room1-anna-5": (0, 1, 1)}), r"\w+-(\w+)")
    assert scores["speaker"].tolist() == ["anna"]


@pytest.mark.parametrize("rule", ["(", "p"])
def test_a_wrong_rule_for_speakers(tmp_path, rule):
    with pytest.raises(UserError, match="SPEAKER=.*: must be a regular expression with a .group."):
        common_scores(runs_of(tmp_path, one={"p226_001": (0, 1, 1)}), rule)


def test_figures_of_scores(table):
    figure, _ = groups_figure(by_snr(table, "pesq_wb"), "pesq_wb")
    (panel,) = figure.axes
    assert [label.get_text() for label in panel.get_xticklabels()] == ["0", "5"]
    assert {text.get_text() for text in figure.legends[0].get_texts()} == {"noisy", "small", "large"}
    figure, _ = files_figure(table, "pesq_wb")
    titles = [panel.get_title(loc="left") for panel in figure.axes]
    assert titles[:2] == ["small", "large"]


def test_what_is_not_known_is_not_drawn(table):
    assert groups_figure(by_snr(table.assign(snr=np.nan), "pesq_wb"), "pesq_wb") is None
    blind = table.drop(columns="noisy_pesq_wb")
    assert files_figure(blind, "pesq_wb") is None
    assert groups_figure(by_speaker(blind, "pesq_wb"), "pesq_wb") is not None
    assert weakest(blind, "pesq_wb").index[0] == "anna_1", "the lowest score"


@pytest.fixture(scope="module")
def signals() -> dict[str, np.ndarray]:
    """Low and high tones in the first second, and noise throughout."""
    time = np.arange(2 * RATE) / RATE
    low, high = (np.sum([np.sin(2 * np.pi * f * time) for f in tones], axis=0) for tones in ((500, 700), (5000, 6000)))
    noise = np.random.default_rng(1).normal(0, 1e-2, len(time))
    here = np.sin(np.pi / 2 * np.clip(10 * np.minimum(time, 1 - time), 0, 1)) ** 2  # a click has all frequencies
    return {"low": 0.1 * here * low, "high": 0.1 * here * high, "noise": noise}


def file_of(signals, low: float, high: float, noise: float):
    """Return the spectrograms of a file of which these shares of the amplitudes are left."""
    clean = signals["low"] + signals["high"]
    enhanced = low * signals["low"] + high * signals["high"] + noise * signals["noise"]
    return spectrograms({"clean": clean, "noisy": clean + signals["noise"], "enhanced": enhanced}, RATE)


def test_of_a_perfect_output_nothing_is_lost(signals):
    file = file_of(signals, 1, 1, 0)
    assert speech_lost(file) == pytest.approx(0, abs=1e-9)
    assert noise_removed(file) > 20


def test_untouched_input_has_lost_and_removed_next_to_nothing(signals):
    file = file_of(signals, 1, 1, 1)
    assert speech_lost(file) < 2 and noise_removed(file) == pytest.approx(0, abs=1e-9)


def test_half_the_amplitude_is_three_quarters_of_the_energy(signals):
    file = file_of(signals, 0.5, 0.5, 0.1)
    assert speech_lost(file) == pytest.approx(75, abs=0.5)


def test_a_lost_band_is_found(signals):
    file = file_of(signals, 1, 0, 0)
    assert speech_lost(file, 0, 2000) == pytest.approx(0, abs=0.1)
    assert speech_lost(file, 4000) == pytest.approx(100, abs=0.1)
    assert speech_lost(file) == pytest.approx(50, abs=1)
    assert np.isnan(speech_lost(file, 2000, 4000)), "there was no speech"


def test_a_tenth_of_the_noise_is_20_db(signals):
    clean = np.zeros(RATE)
    noise = signals["noise"][:RATE]
    file = spectrograms({"clean": clean, "noisy": noise, "enhanced": noise / 10}, RATE)
    assert noise_removed(file) == pytest.approx(20, abs=0.1)
    assert not file.speech.any() and np.isnan(speech_lost(file))


def test_a_missing_signal_is_named(signals):
    with pytest.raises(UserError, match="no clean and no noisy signal"):
        spectrograms({"enhanced": signals["noise"]}, RATE)


@pytest.fixture
def heard(tmp_path, signals) -> pd.DataFrame:
    """Two runs, a training at 16 kHz and an evaluation at 32 kHz, with one file."""
    clean = (signals["low"] + signals["high"]).astype(np.float32)
    for folder, rate in ((tmp_path / "train/test", RATE), (tmp_path / "evaluate", 2 * RATE)):
        for role, part in (("noisy", 1.0), ("enhanced", 0.5), ("clean", 1.0)):
            wave = audio.resample(part * clean, RATE, rate)
            suffix = "wav" if role == "enhanced" else "flac"
            audio.write(folder / role / f"group/a.{suffix}", wave[: len(wave) - rate // 100], rate)
    return pd.DataFrame({"run": ["train", "evaluate"], "path": [str(tmp_path / "train"), str(tmp_path / "evaluate")]})


def test_signals_of_a_file(heard, tmp_path):
    waves, rate = side_by_side(heard, "group/a")
    assert list(waves) == ["noisy", "train", "evaluate", "clean"] and rate == RATE
    assert {len(wave) for wave in waves.values()} == {2 * RATE - RATE // 100}
    assert np.abs(waves["train"] - waves["evaluate"])[RATE // 10 :].max() < 0.01, "both at one rate"
    with pytest.raises(UserError, match="group/b: no enhanced audio in"):
        read_signals(tmp_path / "train", "group/b")


def test_removal_of_runs_in_numbers_and_as_a_picture(heard):
    table = removal(heard, ["group/a"])
    assert table.index.tolist() == [("train", "group/a"), ("evaluate", "group/a")]
    assert table["speech lost, %"].to_numpy() == pytest.approx([75, 75], abs=1)
    assert table["above 4 kHz, %"].to_numpy() == pytest.approx([75, 75], abs=1)
    files = {run: spectrograms(*read_signals(path, "group/a")) for run, path in zip(heard["run"], heard["path"])}
    figure, _ = removal_figure(files)
    titles = [panel.get_title(loc="left") for panel in figure.axes]
    assert [title for title in titles if title] == ["clean", "train", "evaluate"]
    (image,) = figure.axes[2].images
    low = np.s_[round(500 / RATE * 2 * len(files["train"].clean)), 10:50]
    assert np.asarray(image.get_array())[low] == pytest.approx(6.02, abs=0.1), "dB that the speech lacks"
