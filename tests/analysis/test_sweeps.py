"""Sweeps compared: the numbers of the tables, who is on the Pareto front, what is drawn and what is not."""

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from rich.console import Console

from gtcrn.analysis import sweep_figures, sweep_report, sweeps
from gtcrn.analysis.runs import read_runs
from gtcrn.errors import UserError

PICTURES = {"quality_macs.png", "quality_latency.png", "heatmap.png", "learning_curves.png"}


def write_run(folder: Path, seed=1, test=None, macs=10.0, latency=32.0, error=None, curve=(), **knobs) -> None:
    """A run of task=train; `test` holds the scores of a finished one, `knobs` are those of the model."""
    record = folder / ".hydra"
    record.mkdir(parents=True)
    config = {"task": "train", "run_dir": "${hydra:runtime.output_dir}", "monitor": "val/stoi", "seed": seed}
    (record / "config.yaml").write_text(yaml.safe_dump(config | {"model": knobs}))
    typed = [f"model.{knob}={value}" for knob, value in knobs.items()]
    (record / "overrides.yaml").write_text(yaml.safe_dump([*typed, f"seed={seed}"]))
    if test is not None:
        cost = {"parameters_trainable": 5000, "mmacs_exact": macs, "latency_ms": latency}
        scores = {f"enhanced_{metric}": value for metric, value in test.items()}
        validation = {"val/stoi": 0.5 + seed / 100, "val/loss": knobs.get("r", 0) + seed / 10, "train/loss": 1}
        (folder / "summary.json").write_text(json.dumps({"cost": cost, "validation": validation, "test": scores}))
    if error:
        (folder / "error.txt").write_text(error)
    if curve:
        rows = [f"0,{step},{value},{value / 2}" for step, value in enumerate(curve)]
        (folder / "metrics.csv").write_text("\n".join(["epoch,step,train/loss,val/stoi", *rows, ""]))


@pytest.fixture
def grid(tmp_path) -> Path:
    """2 × 2 knobs and 3 seeds; one run failed, one was interrupted, one has no PESQ."""
    number = 0
    for width in (0.5, 1):
        for r in (8, 12):
            for seed in (1, 2, 3):
                pesq = 2 + width / 4 + r / 100 + seed / 10
                test = {"pesq_wb": pesq, "si_sdr": 4 * pesq}
                if (width, r, seed) == (1, 8, 2):
                    test["pesq_wb"] = math.nan
                state = {"error": "out of memory | use less"} if (width, r, seed) == (1, 12, 3) else {"test": test}
                state = {} if (width, r, seed) == (0.5, 8, 1) else state
                curve = [9, 5, 2 - width]
                write_run(tmp_path / str(number), seed, macs=10 * width, width=width, r=r, curve=curve, **state)
                number += 1
    return tmp_path


def table(markdown: str) -> list[list[str]]:
    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def test_means_and_deviations_over_seeds(grid):
    sweep = sweeps.compare(read_runs(grid))
    assert sweep.knobs == ["model.width", "model.r"] and sweep.measure.name == "pesq_wb"
    rows = sweep.means[["model.width", "model.r", "n"]].to_numpy().tolist()
    assert rows == [[1, 8, 3], [1, 12, 2], [0.5, 8, 2], [0.5, 12, 3]], "best first"
    expected = {(1, 8): [2.43, 2.63], (0.5, 12): [2.345, 2.445, 2.545], (1, 12): [2.47, 2.57], (0.5, 8): [2.405, 2.505]}
    for kind, row in sweep.means.iterrows():
        seeds = expected[row["model.width"], row["model.r"]]
        assert row["test.enhanced_pesq_wb"] == pytest.approx(np.mean(seeds))
        assert sweep.deviations.loc[kind, "test.enhanced_pesq_wb"] == pytest.approx(np.std(seeds, ddof=1))


def test_the_report_in_markdown(grid):
    written = sweep_report.write(sweeps.compare(read_runs(grid)), grid / "report")
    names = ["sweep.csv", "sweep.md", "quality_macs.png", "heatmap.png", "learning_curves.png"]
    assert [path.name for path in written] == names, "latency is the same everywhere"
    report = (grid / "report/sweep.md").read_text()
    header, _, *rows = table(report)
    assert header == ["width", "r", "n", "PESQ-wb", "SI-SDR dB", "parameters", "MMACs/s", "latency ms"]
    assert rows[0] == ["1", "8", "3", "**2.530** ± 0.141", "**10.120** ± 0.400", "5,000", "10.00", "32.0"]
    assert rows[2] == ["0.5", "8", "2", "2.455 ± 0.071", "9.820 ± 0.283", "5,000", "5.00", "32.0"]
    assert report.count("**") == 4
    assert "12 runs: 10 finished, 1 failed, 1 unfinished" in report
    assert "PESQ-wb: 1 of 10 finished runs have none" in report
    assert "- 0 (width=0.5 r=8 seed=1): unfinished\n" in report
    assert "- 11 (width=1 r=12 seed=3): failed, out of memory | use less\n" in report
    assert all(f"]({name})" in report for name in names[2:])


def test_the_table_of_all_runs(grid):
    sweep_report.write(sweeps.compare(read_runs(grid)), grid)
    frame = pd.read_csv(grid / "sweep.csv")
    assert list(frame)[:6] == ["model.width", "model.r", "seed", "run", "state", "error"]
    assert len(frame) == 12 and set(frame) == set(read_runs(grid))
    assert frame.loc[11, "error"] == "out of memory | use less" and frame.loc[11, "model.r"] == 12


def test_the_terminal_is_not_wider_than_it_is(tmp_path):
    for number in range(30):
        write_run(tmp_path / str(number), test={"pesq_wb": number / 10}, a_long_name=f"/corpora/{'x' * 90}/{number}")
    for number in range(30, 40):
        write_run(tmp_path / str(number), error="[red]diverged[/red]", a_long_name="[bold]")
    console = Console(width=60, record=True, file=open("/dev/null", "w"))
    console.print(*sweep_report.terminal(sweeps.compare(read_runs(tmp_path))))
    screen = console.export_text()
    assert max(map(len, screen.splitlines())) <= 60
    assert "x/29" in screen and "x/10" in screen and "x/9" not in screen
    assert "… and 10 more configurations in sweep.md" in screen and "… and 5 more runs not finished" in screen
    assert "30 (a_long_name=[bold]): failed, [red]diverged[/red]" in screen


def test_one_run_each_has_no_deviation(tmp_path):
    for number, pesq in enumerate((1.5, 2.25)):
        write_run(tmp_path / str(number), test={"pesq_wb": pesq}, r=number)
    sweep_report.write(sweeps.compare(read_runs(tmp_path)), tmp_path)
    report = (tmp_path / "sweep.md").read_text()
    assert [row[:3] for row in table(report)[2:]] == [["1", "1", "**2.250**"], ["0", "1", "1.500"]]
    assert "±" not in report


def test_pareto_front_against_its_definition():
    rng = np.random.default_rng(0)
    for _ in range(50):
        cost, goodness = rng.integers(0, 6, (2, rng.integers(1, 30)))  # with many ties
        points = list(zip(cost, goodness))
        beaten = [any(c <= x and g >= y and (c, g) != (x, y) for c, g in points) for x, y in points]
        assert (sweeps.pareto(cost, goodness) == ~np.array(beaten)).all()


def test_which_measure(tmp_path):
    for number in range(4):
        write_run(tmp_path / str(number), seed=number % 2, test={"stoi": 0.5, "si_sdr": number}, r=number // 2)
    runs = read_runs(tmp_path)
    assert sweeps.compare(runs).measure.name == "stoi", "the first one of the test"
    sweep = sweeps.compare(runs, "val/loss")
    assert sweep.means["model.r"].tolist() == [0, 1], "less is better"
    assert sweeps.compare(runs, "si_sdr").means["model.r"].tolist() == [1, 0]
    tested = [column for column in runs if column.startswith("test.")]
    assert sweeps.compare(runs.drop(columns=tested)).measure.name == "val/stoi", "the monitored one"
    with pytest.raises(UserError, match="metric=pesq_wb: no run has it; choose from stoi, si_sdr, val/stoi, val/loss"):
        sweeps.compare(runs, "pesq_wb")


def test_nothing_is_drawn_of_nothing(tmp_path):
    for number in range(3):
        write_run(tmp_path / "failed" / str(number), error="r must be positive", r=-number)
    failed = sweeps.compare(read_runs(tmp_path / "failed"), metric="pesq_wb")
    assert failed.measure is None
    (tmp_path / "heatmap.png").write_text("of an earlier report")
    assert [path.name for path in sweep_report.write(failed, tmp_path)] == ["sweep.csv", "sweep.md"]
    assert not PICTURES & {path.name for path in tmp_path.iterdir()}
    report = (tmp_path / "sweep.md").read_text()
    assert "3 runs: 3 failed" in report and report.count("r must be positive") == 3 and "|" not in report

    for seed in (1, 2):
        write_run(tmp_path / "alike" / str(seed), seed, test={"pesq_wb": 1 + seed}, r=8, curve=[2, 1])
    alike = sweeps.compare(read_runs(tmp_path / "alike"))
    assert [path.name for path in sweep_report.write(alike, tmp_path)] == [
        "sweep.csv",
        "sweep.md",
        "learning_curves.png",
    ]
    assert table((tmp_path / "sweep.md").read_text())[2][:2] == ["2", "2.500 ± 0.707"]


def test_many_random_values_are_drawn_as_points(tmp_path):
    rng = np.random.default_rng(0)
    for number in range(20):
        test = {"pesq_wb": math.nan if number == 7 else rng.normal(2)}
        knobs = {"width": float(rng.uniform(0.5, 2)), "rate": float(10 ** rng.uniform(-4, -2))}
        write_run(tmp_path / str(number), test=test, macs=rng.uniform(), latency=rng.uniform(1, 100), **knobs)
    sweep = sweeps.compare(read_runs(tmp_path))
    figure, caption = sweep_figures.map_figure(sweep)
    (panel,) = [axes for axes in figure.axes if axes.get_xlabel()]
    assert len(panel.collections[0].get_offsets()) == 19
    assert {panel.get_xscale(), panel.get_yscale()} == {"linear", "log"} and "Points: " in caption
    written = {path.name for path in sweep_report.write(sweep, tmp_path)}
    assert PICTURES - written == {"learning_curves.png"}


def test_maps_of_more_than_two_knobs_show_the_best(tmp_path):
    for number, (a, b, c) in enumerate(np.ndindex(2, 3, 2)):
        write_run(tmp_path / str(number), test={"pesq_wb": a + b / 10 + c / 100}, a=a, b=b, c=c)
    figure, caption = sweep_figures.map_figure(sweeps.compare(read_runs(tmp_path)))
    panels = {(axes.get_xlabel(), axes.get_ylabel()): axes for axes in figure.axes if axes.get_xlabel()}
    assert set(panels) == {("a", "b"), ("a", "c"), ("b", "c")} and "best configuration" in caption
    cells = panels["a", "b"].images[0].get_array()
    assert np.allclose(cells, [[0.01, 1.01], [0.11, 1.11], [0.21, 1.21]])


def test_short_names_stay_unique():
    assert list(sweeps.short_names(["model.r", "data.rate", "teacher.rate", "loss"]).values()) == [
        "r",
        "data.rate",
        "teacher.rate",
        "loss",
    ]


def test_runs_without_a_configuration_are_not_taken_for_seeds(tmp_path):
    for run, pesq in (("a", 1.5), ("b", 2.5)):
        (tmp_path / run).mkdir()
        (tmp_path / run / "summary.json").write_text(json.dumps({"enhanced_pesq_wb": pesq}))
    sweep = sweeps.compare(read_runs(tmp_path))
    assert sweep.means[["run", "n", "test.enhanced_pesq_wb"]].to_numpy().tolist() == [["b", 1, 2.5], ["a", 1, 1.5]]
