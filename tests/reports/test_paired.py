"""The paired comparison: its intervals against known answers, whose files and seeds it uses, and what is written."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from rich.console import Console
from scipy.stats import ttest_rel

from gtcrn.reports import paired_report, sweep_figures, sweep_report, sweeps
from gtcrn.reports.paired import NOISY, bootstrap, compare
from gtcrn.reports.runs import read_runs


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_the_interval_is_that_of_a_paired_t_test(rng):
    """Differences of 0.2 ± 0.5 between files that differ by 10: an unpaired interval would be far wider."""
    base = rng.normal(0, 10, 200)
    own = base + rng.normal(0.2, 0.5, 200)
    row = bootstrap([base[None], own[None]], 0).loc[1]
    low, high = ttest_rel(own, base).confidence_interval(0.95)
    assert row["difference"] == pytest.approx(np.mean(own - base))
    assert row["high"] - row["low"] == pytest.approx(high - low, rel=0.05)
    assert [row["low"], row["high"]] == pytest.approx([low, high], abs=0.05 * (high - low))
    assert row["better"] > 0.999 and row["mean_high"] - row["mean_low"] > 10 * (high - low)


def test_p_is_the_normal_probability_and_a_half_of_equal_systems(rng):
    base = rng.normal(2, 1, 100)
    noise = rng.normal(0, 0.1, 100)
    shifted = base + noise - noise.mean() + 0.1 / 10  # one standard error above: P = 0.84
    centred = base + noise - noise.mean()
    better = bootstrap([base[None], base[None].copy(), centred[None], shifted[None]], 0)["better"]
    assert better[1] == 0.5 and better[2] == pytest.approx(0.5, abs=0.03) and better[3] == pytest.approx(0.84, abs=0.04)


def test_swapped_systems_mirror_each_other(rng):
    systems = [rng.normal(2, 0.5, (seeds, 40)) for seeds in (1, 3, 2)]
    systems[1][0, 7] = systems[2][1, 9] = np.nan
    for one, other in ((0, 1), (1, 2)):
        forth, back = bootstrap(systems, other).loc[one], bootstrap(systems, one).loc[other]
        assert forth["files"] == back["files"] and forth["better"] == pytest.approx(1 - back["better"], abs=1e-9)
        for a, b in (("difference", "difference"), ("low", "high"), ("high", "low")):
            assert forth[a] == pytest.approx(-back[b], abs=1e-9)


def test_seeds_that_differ_widen_the_interval_by_their_variance(rng):
    """Of files alone, the interval is that of one training; σ² of a difference of two means over S seeds is 2 σ²/S."""
    seeds, files = 4, 50
    base, own = (rng.normal(0, 0.05, (seeds, files)) for _ in range(2))
    effects = np.linspace(-1, 1, seeds)[:, None]
    width = {
        effect: np.ptp(bootstrap([base + effect * effects, own + effect * effects], 0).loc[1, ["low", "high"]])
        for effect in (0, 1)
    }
    expected = 2 * 1.96 * np.sqrt(2 * effects.var(ddof=1) / seeds)
    assert width[0] < 0.05 and width[1] == pytest.approx(expected, rel=0.08)
    two = bootstrap([np.stack([base[0], base[1] + 1]), own[:1]], 1).loc[0]
    assert two["n"] == 2 and two["deviation"] == pytest.approx(0.5**0.5, abs=0.05) and two["high"] - two["low"] > 0.9


def test_a_file_without_a_score_is_left_out_of_its_pairs_alone():
    full, gap = np.array([[1.0, 2, 3, 4]]), np.array([[np.nan, 3, 4, 5]])
    rows = bootstrap([full, gap, full + 1], 0)
    assert rows["files"].tolist() == [4, 3, 4] and rows["lacking"].tolist() == [0, 1, 0]
    assert rows["difference"].tolist() == [0, 1, 1]
    one = bootstrap([full, np.array([[np.nan, np.nan, np.nan, 5]])], 0).loc[1]
    assert one["difference"] == 1 and one[["low", "high", "better"]].isna().all(), "one file has no interval"
    none = bootstrap([full, np.full((1, 4), np.nan)], 0).loc[1]
    assert none["files"] == 0 and np.isnan(none["difference"])


def test_direction_noisy_and_seeds_without_scores(rng):
    names = [f"f{number}" for number in range(20)]

    def scored(llr: float) -> pd.DataFrame:
        noise = rng.normal(0, 0.01, 20)
        return pd.DataFrame({"noisy_llr": 1.0, "enhanced_llr": llr + noise, "noisy_stoi": np.nan}, index=names)

    dead = scored(0).assign(enhanced_llr=np.nan)
    compared = compare({4: [scored(0.5)], 7: [scored(0.6), dead]}, reference=4).set_index("system")
    assert list(compared.index) == [NOISY, 4, 7] and set(compared["metric"]) == {"llr"}
    assert compared["n"].tolist() == [1, 1, 1], "a seed without any score is none"
    assert compared.loc[7, "difference"] == pytest.approx(0.1, abs=0.02) and compared.loc[7, "better"] == 0
    assert compare({4: [scored(0.5).drop(columns="noisy_llr")]}, NOISY).empty


def write_run(folder: Path, pesq, seed=1, noisy=1.0, **config) -> None:
    """A finished run with PESQ of each file, of task=train with knobs of the model unless the configuration tells."""
    (folder / ".hydra").mkdir(parents=True)
    known = {"task": "train", "run_dir": "${hydra:runtime.output_dir}", "seed": seed}
    (folder / ".hydra/config.yaml").write_text(yaml.safe_dump(known | config))
    typed = [f"{group}.{key}={value}" for group in ("model", "trainer") for key, value in config.get(group, {}).items()]
    (folder / ".hydra/overrides.yaml").write_text(yaml.safe_dump(typed))
    names = [f"f{number}" for number in range(len(pesq))]
    scores = {"name": names, "snr": 5.0, "noisy_pesq_wb": noisy, "enhanced_pesq_wb": pesq, "failures": ""}
    pd.DataFrame(scores).to_csv(folder / "scores.csv", index=False)
    (folder / "summary.json").write_text(json.dumps({"enhanced_pesq_wb": 2.0, "noisy_pesq_wb": noisy}))


@pytest.fixture
def runs(tmp_path, rng) -> pd.DataFrame:
    """Two published checkpoints, one of them much worse, and two seeds of one's own at the level of the better one."""
    files = rng.normal(2, 0.3, 30)
    for name, level in (("gtcrn-dns3", 0.0), ("micro-dns3", -0.3)):
        noise = rng.normal(0, 0.05, 30)
        write_run(tmp_path / name, files + level + noise, task="evaluate", ckpt=name, trainer={"max_epochs": 5})
    for seed in (1, 2):
        write_run(tmp_path / f"own{seed}", files + rng.normal(0, 0.05, 30), seed=seed, model={"r": 8})
    return read_runs(tmp_path)


def test_trained_runs_beside_evaluated_checkpoints(runs):
    """Runs of one task lack keys of the other, which must not be part of their names."""
    (sweep,) = sweeps.compare(runs, reference="gtcrn-dns3")
    assert set(sweep.names) == {"gtcrn-dns3", "micro-dns3", "task=train"}
    better, worse, noisy = (
        next(line for line in paired_report.sentences(sweep) if name in line) for name in ("train", "micro", "noisy")
    )
    assert better.startswith("It is open whether task=train is better than gtcrn-dns3 in PESQ-wb: difference ")
    assert better.endswith("; 30 files; 2 and 1 seeds).")
    assert worse.startswith("gtcrn-dns3 is better than micro-dns3 in PESQ-wb: by 0.3") and "(P > 0.999; " in worse
    assert worse.endswith("; 30 files; one seed each).") and noisy.endswith("; 30 files; 1 seed).")
    notes = paired_report.notes(sweep)
    assert any("resamples of the files and seeds in which" in note for note in notes)
    assert "where n is 1: differences between trainings are not included" in notes
    assert sweeps.compare(runs, reference="own2")[0].reference == sweeps.references(sweep)["task=train"]
    assert sweeps.compare(runs, reference="noisy")[0].reference == NOISY


def test_what_another_task_lacks_is_not_drawn_as_null(runs, tmp_path, rng):
    for r in (4, 12):
        write_run(tmp_path / f"r{r}", rng.normal(2, 0.3, 30), model={"r": r})
    (sweep,) = sweeps.compare(read_runs(tmp_path))
    assert {"r=4", "r=8", "r=12", "gtcrn-dns3"} <= set(sweep.names)
    figure, caption = sweep_figures.knob_figure(sweep)
    assert [text.get_text() for text in figure.axes[0].get_xticklabels()] == ["4", "8", "12"]
    assert not figure.legends and "null" not in caption


def test_what_is_written(runs, tmp_path):
    (sweep,) = sweeps.compare(runs, reference="micro-dns3")
    written = {path.name for path in sweep_report.write([sweep], tmp_path)}
    assert {"paired.csv", "paired.png"} <= written
    rows = pd.read_csv(tmp_path / "paired.csv").set_index("configuration")
    assert set(rows["reference"]) == {"micro-dns3"} and rows.loc["gtcrn-dns3", "low"] > 0.2
    report = (tmp_path / "sweep.md").read_text()
    assert "## Compared file by file with micro-dns3" in report and "| PESQ-wb | n | files | mean [95 %] |" in report
    assert "| micro-dns3 (reference) | 1 | 30 | " in report and "](paired.png)" in report
    console = Console(width=80, record=True, file=open("/dev/null", "w"))
    console.print(*sweep_report.terminal([sweep]), sep="\n")
    screen = console.export_text()
    assert "micro-dns3 (reference)" in screen and "difference [95 %]" in screen and "> 0.999" in screen
    assert max(map(len, screen.splitlines())) <= 80

    figure, caption = sweep_figures.forest_figure(sweep)
    (panel,) = figure.axes
    assert panel.get_xlabel() == "PESQ-wb → better" and "difference from micro-dns3" in caption
    labels = {text.get_text() for text in panel.get_yticklabels()}
    assert labels == {"gtcrn-dns3", "task=train"}
    assert paired_report.content(sweep)["tables"][0][0][0] == "PESQ-wb"


def test_files_that_only_one_of_two_runs_has_and_few_files(tmp_path):
    write_run(tmp_path / "a", [2.0, 2.1, 2.2, 2.3], model={"r": 8})
    write_run(tmp_path / "b", [2.1, 2.2, 2.5], model={"r": 16})
    (sweep,) = sweeps.compare(read_runs(tmp_path), reference="8")
    (row,) = sweep.paired[sweep.paired["system"] == sweeps.references(sweep)["r=16"]].to_dict("records")
    assert row["files"] == 3 and row["difference"] == pytest.approx(0.5 / 3)
    assert (
        "compared on the 3 test files that all have in common; 1 of 2 runs were tested on up to 1 more" in sweep.remarks
    )
    assert "3 files: too few for intervals to mean much" in paired_report.notes(sweep)


def test_other_data_under_the_same_names_is_not_compared(tmp_path):
    for number, noisy in enumerate((1.0, 1.0, 1.5)):
        write_run(tmp_path / str(number), [2.0 + number, 2.1, 2.2], noisy=noisy, model={"r": number})
    first, second = sweeps.compare(read_runs(tmp_path), reference="r=0")
    assert set(first.paired["system"]) == {NOISY, *first.means.index} and len(first.means) == 2
    assert second.reference == NOISY and len(second.means) == 1, "nothing but the noisy input is the same"
