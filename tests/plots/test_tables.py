"""Means, intervals and missing scores in the tables of an evaluation."""

import math
from importlib.metadata import version

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from gtcrn.plots import tables


def make_scores(n_files: int = 4, snrs=(0.0, 5.0)) -> pd.DataFrame:
    index = np.arange(n_files)
    return pd.DataFrame({
        "name": [f"file{i}" for i in index],
        "snr": [snrs[i % len(snrs)] for i in index],
        "noisy_pesq_wb": 1.0 + 0.1 * index,
        "noisy_si_sdr": 5.0 + index,
        "enhanced_pesq_wb": 2.0 + 0.2 * index,
        "enhanced_si_sdr": 9.0 + index,
        "failures": "",
    })  # fmt: skip


def test_means_and_paired_intervals():
    summary = tables.summarise(make_scores())
    assert list(summary.index) == ["pesq_wb", "si_sdr"]
    row = summary.loc["si_sdr"]
    assert (row["noisy"], row["enhanced"], row["improvement"]) == (6.5, 10.5, 4)
    # t(0.975, 3 degrees of freedom) = 3.182446, standard deviation of 0 1 2 3 = 1.290994
    assert row["noisy_ci95"] == pytest.approx(3.182446 * 1.290994 / 2, rel=1e-5)
    assert row["improvement_ci95"] == 0, "every file improves by 4 dB: the interval is that of differences"


def test_a_failed_file_is_left_out_on_both_sides_and_counted():
    scores = make_scores()
    scores.loc[3, "enhanced_pesq_wb"] = math.nan
    scores.loc[3, "failures"] = "enhanced_pesq_wb: No utterances detected"
    row = tables.summarise(scores).loc["pesq_wb"]
    assert (row["files"], row["failures"]) == (3, 1)
    assert row["noisy"] == pytest.approx(1.1) and row["improvement"] == pytest.approx(1.1)
    text = tables.markdown(scores)
    assert "PESQ-wb: 1 of 4 files have no score" in text
    assert "No utterances detected (1 scores)" in text


def test_interval_covers_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(400):
        scores = pd.DataFrame({"enhanced_si_sdr": rng.normal(10, 3, 8), "failures": ""})
        row = tables.summarise(scores).loc["si_sdr"]
        hits += abs(row["enhanced"] - 10) <= row["enhanced_ci95"]
    assert 0.92 <= hits / 400 <= 0.98


def test_the_scores_of_one_file_as_text():
    scores = make_scores()
    scores.loc[0, "enhanced_pesq_wb"] = math.nan
    assert tables.score_texts(scores.loc[0]) == {
        "noisy": "PESQ-wb 1.00   SI-SDR dB 5.00",
        "enhanced": "PESQ-wb –   SI-SDR dB 9.00",
    }
    alone = tables.score_texts(scores.loc[1].drop(["noisy_pesq_wb", "noisy_si_sdr"]))
    assert alone == {"noisy": "", "enhanced": "PESQ-wb 2.20   SI-SDR dB 10.00"}


def test_by_exact_snr():
    groups = tables.summarise_by_snr(make_scores(6, snrs=(17.5, 2.5, -5.0)))
    assert list(groups) == ["-5 dB", "2.5 dB", "17.5 dB"]
    assert groups["2.5 dB"].loc["si_sdr", "noisy"] == 7.5


def test_by_bins_of_snr_where_there_are_many_levels():
    groups = tables.summarise_by_snr(make_scores(20, snrs=np.linspace(-4.9, 14.2, 20)))
    assert list(groups) == ["-5 to 0 dB", "0 to 5 dB", "5 to 10 dB", "10 to 15 dB"]
    assert sum(group["files"].iloc[0] for group in groups.values()) == 20


def test_unknown_snrs_are_left_out():
    scores = make_scores()
    scores.loc[0, "snr"] = math.nan
    assert tables.summarise_by_snr(scores)["0 dB"]["files"].max() == 1
    scores["snr"] = math.nan
    assert tables.summarise_by_snr(scores) == {}
    assert tables.summarise_by_snr(scores.drop(columns="snr")) == {}


def test_markdown_report():
    text = tables.markdown(make_scores())
    assert "| SI-SDR dB | 6.50 ± 2.05 | 10.50 ± 2.05 | +4.00 ± 0.00 |" in text
    assert "| 0 dB | 2 | 1.10 → 2.20 | 6.00 → 10.00 |" in text
    assert "without Corrigendum 2" in text and "4 files" in text


def test_enhanced_alone_and_a_single_file():
    scores = make_scores(1).drop(columns=["noisy_pesq_wb", "noisy_si_sdr"])
    assert "| SI-SDR dB | 9.00 |" in tables.markdown(scores)


def test_all_failed_is_a_dash():
    scores = make_scores()
    scores["enhanced_pesq_wb"] = math.nan
    assert "| PESQ-wb | – | – | – |" in tables.markdown(scores)


def test_terminal_fits_80_columns():
    console = Console(width=80, record=True, file=open("/dev/null", "w"))
    console.print(*tables.terminal(make_scores(), title="demo"))
    text = console.export_text()
    assert "demo" in text and "+4.00" in text and "6.00 → 10.00" in text and "…" not in text
    assert "P.862.2" in text


def test_measures_without_reference():
    names = {f"{condition}_{old}": f"{condition}_{new}" for condition in ("noisy", "enhanced")
             for old, new in (("pesq_wb", "dnsmos_ovrl"), ("si_sdr", "dnsmos_p808"))}  # fmt: skip
    scores = make_scores(snrs=(math.nan, 21.0)).rename(columns=names)
    text = tables.markdown(scores)
    assert "| DNSMOS OVRL | 1.15 ± 0.21 | 2.30 ± 0.41 | +1.15 ± 0.21 |" in text
    assert "| 21 dB | 2 | 1.20 → 2.40 | 7.00 → 11.00 |" in text and "PESQ" not in text


def test_what_is_taken_from_speech_and_noise_stands_by_snr_with_a_note():
    scores = make_scores()
    scores = scores.assign(noisy_speech_att=-1e-9, enhanced_speech_att=1.0, noisy_noise_att=0.0, enhanced_noise_att=8.0)
    text = tables.markdown(scores)
    assert "| speech taken dB | noise taken dB |" in text and "| 0.00 → 1.00 | 0.00 → 8.00 |" in text
    assert "| speech taken dB | 0.00 ± 0.00 | 1.00 ± 0.00 | -1.00 ± 0.00 |" in text
    assert "| noise | files |" not in text
    by_noise = tables.markdown(scores.assign(noise=["bus", "cafe"] * (len(scores) // 2)))
    assert "| noise | files |" in by_noise and f"| cafe | {len(scores) // 2} |" in by_noise
    assert "-0.00 ±" not in text
    assert "- noise taken dB: mean attenuation" in text and f"pesq {version('pesq')} (MIT)" in text


def test_csv_round_trip(tmp_path):
    scores = make_scores()
    scores.loc[0, ["enhanced_pesq_wb", "failures"]] = [math.nan, "enhanced_pesq_wb: silent reference"]
    tables.write_csv(scores, tmp_path / "scores.csv")
    read = pd.read_csv(tmp_path / "scores.csv")
    assert list(read.columns) == list(scores.columns)
    assert tables.markdown(read) == tables.markdown(scores)


def test_names_that_look_like_formulas_come_back_as_they_were(tmp_path):
    names = ["=1+1", "-5 dB", "'=x", "'quoted'", "a", "@b"]
    tables.write_csv(pd.DataFrame({"name": names, "snr": -5.0}), tmp_path / "scores.csv")
    table = pd.read_csv(tmp_path / "scores.csv")
    assert not table["name"].str.startswith(("=", "-", "@")).any() and (table["snr"] == -5).all()
    assert tables.unmarked(table["name"]).tolist() == names
