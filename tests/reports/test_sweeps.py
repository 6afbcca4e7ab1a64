"""Sweeps compared: the numbers of the tables, who is on the Pareto front, what is drawn and what is not."""

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from rich.console import Console

from gtcrn.errors import UserError
from gtcrn.reports import sweep_figures, sweep_report, sweeps
from gtcrn.reports.runs import read_runs

PICTURES = {"quality_macs.png", "quality_latency.png", "quality_knob.png", "heatmap.png", "learning_curves.png"}


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
    sweep = sweeps.compare(read_runs(grid))[0]
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
    console.print(*sweep_report.terminal(sweeps.compare(read_runs(tmp_path))), sep="\n")
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
    assert sweeps.compare(runs)[0].measure.name == "stoi", "the first one of the test"
    sweep = sweeps.compare(runs, "val/loss")[0]
    assert sweep.means["model.r"].tolist() == [0, 1], "less is better"
    assert sweeps.compare(runs, "si_sdr")[0].means["model.r"].tolist() == [1, 0]
    tested = [column for column in runs if column.startswith("test.")]
    assert sweeps.compare(runs.drop(columns=tested))[0].measure.name == "val/stoi", "the monitored one"
    with pytest.raises(UserError, match="metric=pesq_wb: no run has it; choose from stoi, si_sdr, val/stoi, val/loss"):
        sweeps.compare(runs, "pesq_wb")


def test_a_metric_that_is_not_registered_here_is_left_out(tmp_path, caplog):
    """Nothing tells in which direction it becomes better."""
    for number in range(2):
        write_run(tmp_path / str(number), test={"stoi": 0.5, "own_metric": number}, r=number)
    (sweep,) = sweeps.compare(read_runs(tmp_path))
    assert set(sweeps.measures(sweep.runs)) == {"stoi", "val/stoi", "val/loss"}
    assert "left out own_metric: unknown here" in caplog.text and "imports=[MODULE]" in caplog.text


@pytest.mark.parametrize("count", [3, 30])
def test_every_configuration_is_numbered_beside_the_pareto_front(tmp_path, count):
    for number in range(count):  # a front of the first, the second and the last
        write_run(
            tmp_path / str(number), test={"pesq_wb": 3 - (number % (count - 1)) / count}, macs=1 + number, r=number
        )
    sweep = sweeps.compare(read_runs(tmp_path))[0]
    figure, caption = sweep_figures.cost_figure(sweep, "cost.mmacs_exact", "MMACs/s")
    written = ", ".join(text.get_text() for text in figure.axes[0].texts if text.get_text())
    assert sorted(map(int, written.split(", "))) == list(range(1, count + 1)), "the dominated ones too"
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend[:2] == ["Pareto front", "dominated by it"] and "PESQ-wb" in figure.legends[0].get_title().get_text()
    named = [text for text in legend if ": r=" in text]
    assert len(named) == min(count, 20) and named[0].startswith(f"{sweep.means.index.get_loc(0) + 1}: r=0\n3.000 at 1")
    assert (legend[-1] == "and 10 more, numbered from the best on") == (count == 30)
    assert "as the rows of the table" in caption


def test_nothing_is_drawn_of_nothing(tmp_path):
    for number in range(3):
        write_run(tmp_path / "failed" / str(number), error="r must be positive", r=-number)
    failed = sweeps.compare(read_runs(tmp_path / "failed"), metric="pesq_wb")[0]
    assert failed.measure is None
    (tmp_path / "heatmap.png").write_text("of an earlier report")
    assert [path.name for path in sweep_report.write([failed], tmp_path)] == ["sweep.csv", "sweep.md"]
    assert not PICTURES & {path.name for path in tmp_path.iterdir()}
    report = (tmp_path / "sweep.md").read_text()
    assert "3 runs: 3 failed" in report and report.count("r must be positive") == 3 and "|" not in report

    for seed in (1, 2):
        write_run(tmp_path / "alike" / str(seed), seed, test={"pesq_wb": 1 + seed}, r=8, curve=[2, 1])
    alike = sweeps.compare(read_runs(tmp_path / "alike"))[0]
    assert [path.name for path in sweep_report.write([alike], tmp_path)] == [
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
    sweep = sweeps.compare(read_runs(tmp_path))[0]
    figure, caption = sweep_figures.map_figure(sweep)
    (panel,) = [axes for axes in figure.axes if axes.get_xlabel()]
    assert len(panel.collections[0].get_offsets()) == 19
    assert {panel.get_xscale(), panel.get_yscale()} == {"linear", "log"} and "Points: " in caption
    written = {path.name for path in sweep_report.write([sweep], tmp_path)}
    assert PICTURES - written == {"quality_knob.png", "learning_curves.png"}


def test_quality_against_a_number_that_may_be_null(tmp_path):
    numbers = 12, None, 0, 6
    for number, (kind, seed, value) in enumerate(itertools.product("ab", (1, 2), numbers)):
        test = {"pesq_wb": seed + (99 if value is None else value) + 100 * (kind == "b"), "si_sdr": 1}
        write_run(tmp_path / str(number), seed, test=test, limit=value, kind=kind)
    figure, caption = sweep_figures.knob_figure(sweeps.compare(read_runs(tmp_path))[0])
    pesq, si_sdr = figure.axes
    assert (pesq.get_ylabel(), si_sdr.get_ylabel(), si_sdr.get_xlabel()) == ("PESQ-wb", "SI-SDR dB", "limit")
    assert [text.get_text() for text in si_sdr.get_xticklabels()] == ["0", "6", "12", "–"]
    lines = [
        line.get_ydata().tolist() for line in pesq.lines if len(line.get_ydata()) == 4 and line.get_marker() in "os"
    ]
    assert lines == [[1.5, 7.5, 13.5, 100.5], [101.5, 107.5, 113.5, 200.5]]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["kind=a", "kind=b"]
    assert "– stands for null. Bars are standard deviations" in caption and "noisy" not in caption


def test_maps_of_more_than_two_knobs_show_the_best(tmp_path):
    for number, (a, b, c) in enumerate(np.ndindex(2, 3, 2)):
        write_run(tmp_path / str(number), test={"pesq_wb": a + b / 10 + c / 100}, a=a, b=b, c=c)
    figure, caption = sweep_figures.map_figure(sweeps.compare(read_runs(tmp_path))[0])
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
    sweep = sweeps.compare(read_runs(tmp_path))[0]
    assert sweep.means[["run", "n", "test.enhanced_pesq_wb"]].to_numpy().tolist() == [["b", 1, 2.5], ["a", 1, 1.5]]


def write_scores(folder: Path, names, pesq, noisy=1.5) -> None:
    """Scores of a run of task=train: one of all files, or one for each."""
    (folder / "test").mkdir()
    table = pd.DataFrame({"name": names, "snr": 5.0, "noisy_pesq_wb": noisy, "enhanced_pesq_wb": pesq, "failures": ""})
    table.to_csv(folder / "test/scores.csv", index=False)


def write_tested(folder: Path, names, pesq, noisy=1.5, **knobs) -> None:
    """A finished run with scores whose summary is the mean over its own files, as task=train writes it."""
    test = {"pesq_wb": float(np.mean(pesq))}
    write_run(folder, test=test, **knobs)
    summary = json.loads((folder / "summary.json").read_text())
    summary["test"] |= {"noisy_pesq_wb": float(np.mean(noisy))}
    (folder / "summary.json").write_text(json.dumps(summary))
    write_scores(folder, names, pesq, noisy)


def test_only_files_that_all_were_tested_on_are_compared(tmp_path):
    """Run 1 was tested on two easy files more, which make it look better than run 0."""
    write_tested(tmp_path / "0", ["a", "b", "c"], [2.0, 2.0, 2.0], r=0)
    write_tested(tmp_path / "1", ["a", "b", "c", "d", "e"], [1.8, 1.8, 1.8, 4.0, 4.0], r=1)
    runs = read_runs(tmp_path)
    assert runs["test.enhanced_pesq_wb"].idxmax() == 1
    (sweep,) = sweeps.compare(runs)
    assert sweep.means[["model.r", "test.enhanced_pesq_wb"]].to_numpy().tolist() == [[0, 2.0], [1, pytest.approx(1.8)]]
    sweep_report.write([sweep], tmp_path)
    report = (tmp_path / "sweep.md").read_text()
    assert "- compared on the 3 test files that all have in common; 1 of 2 runs were tested on up to 2 more" in report


@pytest.mark.parametrize("other", [{"names": ["x", "y", "z"]}, {"noisy": 2.5}, {"names": ["a"], "pesq": 4.0}])
def test_runs_of_other_test_sets_stand_apart(tmp_path, other):
    """Other files; files of the same names that sound otherwise; and much fewer."""
    everywhere = {"names": ["a", "b", "c"], "pesq": 2.0}
    for number in range(2):
        write_tested(tmp_path / str(number), **everywhere, r=number)
    write_tested(tmp_path / "2", **everywhere | other, r=2)
    first, second = sweeps.compare(read_runs(tmp_path))
    assert [list(sweep.runs["run"]) for sweep in (first, second)] == [["0", "1"], ["2"]]
    sweep_report.write([first, second], tmp_path)
    report = (tmp_path / "sweep.md").read_text()
    assert "What may not be compared stands apart." in report
    assert "| 2 | 1 | " in report, "a lone run is called by its folder"
    assert "\n## 2 runs, tested on 3 files\n" in report and "\n## 1 run, tested on" in report
    assert len(pd.read_csv(tmp_path / "sweep.csv")) == 3


def test_a_file_without_a_score_in_one_run_is_in_no_mean(tmp_path):
    """A silent output has no PESQ; the mean of the others would be that of the easy files."""
    write_tested(tmp_path / "0", ["a", "b"], [1.0, 3.0], r=0)
    write_tested(tmp_path / "1", ["a", "b"], [np.nan, 2.9], r=1)
    (sweep,) = sweeps.compare(read_runs(tmp_path))
    assert sweep.means["test.enhanced_pesq_wb"].tolist() == [3.0, 2.9]
    assert "PESQ-wb: 1 of 2 files lack a score and are in no mean" in sweep.remarks


def test_runs_that_trained_on_less_stand_apart(tmp_path):
    for number, limit in enumerate((1.0, 1.0, 1)):  # all batches, all, a single one
        write_tested(tmp_path / str(number), ["a"], 2.0, r=number)
        config = yaml.safe_load((tmp_path / str(number) / ".hydra/config.yaml").read_text())
        config["trainer"] = {"limit_train_batches": limit}
        (tmp_path / str(number) / ".hydra/config.yaml").write_text(yaml.safe_dump(config))
    first, second = sweeps.compare(read_runs(tmp_path))
    assert first.remarks == ["tested on 1 file", "trainer.limit_train_batches=100 %"] and first.knobs == ["model.r"]
    assert second.remarks[1] == "trainer.limit_train_batches=1"


def test_a_test_on_the_validation_split_is_told(tmp_path):
    titles = ("test", "test (on the validation set: these data have no test set)")
    for number, title in enumerate(titles):
        write_tested(tmp_path / str(number), [f"{number}_1"], 2.0, r=1)
        summary = json.loads((tmp_path / str(number) / "summary.json").read_text()) | {"tested_on": title}
        (tmp_path / str(number) / "summary.json").write_text(json.dumps(summary))
    told = [sweep.remarks for sweep in sweeps.compare(read_runs(tmp_path))]
    assert told == [["tested on 1 file"], [f"tested on 1 file, {titles[1]}"]]


def test_noisy_is_in_every_table_and_figure_and_nothing_worse_is_bold(tmp_path):
    for number, (r, width) in enumerate(np.ndindex(2, 2)):
        knobs = {"r": r, "width": width, "macs": 1 + number}
        write_tested(tmp_path / str(number), ["a", "b"], 1.1 + number / 10, noisy=1.35, **knobs)
    (sweep,) = sweeps.compare(read_runs(tmp_path))
    sweep_report.write([sweep], tmp_path)
    report = (tmp_path / "sweep.md").read_text()
    header, _, *rows = table(report)
    assert header[:4] == ["r", "width", "n", "PESQ-wb"]
    assert rows[0] == ["noisy", "", "", "1.350", "", "", ""] and rows[1][3] == "**1.400**"
    assert "- 3 of 4 are worse than the noisy input by PESQ-wb" in report
    figure, caption = sweep_figures.cost_figure(sweep, "cost.mmacs_exact", "MMACs/s")
    assert "dashed line is the noisy input" in caption
    assert [1.35, 1.35] in [list(line.get_ydata()) for line in figure.axes[0].lines]
    figure, caption = sweep_figures.map_figure(sweep)
    assert "The noisy input has 1.350; what is worse is crossed out." in caption
    assert len(figure.axes[0].lines) == 3

    for number in range(4):
        file = tmp_path / str(number) / "test/scores.csv"
        file.write_text(file.read_text().replace("1.35", "1.45"))
    sweep_report.write(sweeps.compare(read_runs(tmp_path)), tmp_path)
    report = (tmp_path / "sweep.md").read_text()
    assert "| noisy |  |  | **1.450** |" in report and report.count("**") == 2
    console = Console(width=80, record=True, file=open("/dev/null", "w"))
    console.print(*sweep_report.terminal(sweeps.compare(read_runs(tmp_path))), sep="\n")
    assert "noisy" in console.export_text()


def test_less_is_better_of_a_distance(tmp_path):
    for number, (r, llr) in enumerate(((4, 0.9), (8, 0.3))):
        write_run(tmp_path / str(number), test={"llr": llr}, r=r)
    (sweep,) = sweeps.compare(read_runs(tmp_path), "llr")
    assert sweep.means["model.r"].tolist() == [8, 4]
    assert "**0.3000**" in sweep_report.markdown([sweep], "", [])


def test_missing_pictures_are_explained(tmp_path):
    for number in range(2):
        write_run(tmp_path / str(number), test={"pesq_wb": 1.5}, r=number)
    sweep_report.write(sweeps.compare(read_runs(tmp_path)), tmp_path)
    report = (tmp_path / "sweep.md").read_text()
    assert "- quality_macs.png: no two configurations differ in MMACs/s, exact\n" in report
    assert "- heatmap.png: no two knobs were swept over a grid" in report
    assert "- learning_curves.png: no run has logged two steps" in report


def test_what_failed_or_was_mistyped_is_no_knob(tmp_path):
    for number, r in enumerate((8, 12)):
        write_run(tmp_path / str(number), test={"pesq_wb": r / 10}, r=r)
    write_run(tmp_path / "2", error="model.width: not known", width=3)
    write_run(tmp_path / "3", r=8, dropout=0.5)  # stopped at once
    (sweep,) = sweeps.compare(read_runs(tmp_path))
    assert sweep.knobs == ["model.r"]
    assert "width" not in sweep_report.markdown([sweep], "", []).partition("## Not finished")[0]


def test_text_of_unknown_origin_is_no_markup_and_no_formula(tmp_path):
    evil = "<script>alert(1)</script> [here](javascript:x)"
    for number, value in enumerate((evil, "=1+1")):
        write_run(tmp_path / str(number), test={"pesq_wb": number}, a=value)
    write_run(tmp_path / "2", error=f"{evil}\n# no heading", a="-2")
    sweep_report.write(sweeps.compare(read_runs(tmp_path)), tmp_path)
    report = (tmp_path / "sweep.md").read_text()
    assert "<script" not in report and "](java" not in report and report.count("&lt;script>") == 2
    cells = pd.read_csv(tmp_path / "sweep.csv", dtype=str)
    assert cells["model.a"].tolist() == [evil, "'=1+1", "'-2"]
    assert not cells.map(lambda cell: str(cell).startswith(("=", "+", "@"))).any(axis=None)


def test_learning_curves_show_the_noisy_input(tmp_path):
    write_run(tmp_path / "1", test={"stoi": 0.5}, curve=[9, 5])
    caption = sweep_figures.curve_figure(sweeps.compare(read_runs(tmp_path))[0])[1]
    assert "noisy" not in caption, "older runs have not logged it"
    logged = tmp_path / "1" / "metrics.csv"
    logged.write_text("epoch,step,train/loss,val/stoi,val/noisy_stoi\n0,0,9,0.4,0.7\n0,1,5,0.5,0.7\n")
    figure, caption = sweep_figures.curve_figure(sweeps.compare(read_runs(tmp_path))[0])
    assert "The dashed line is the noisy input" in caption
    dashed = [line.get_ydata()[0] for panel in figure.axes for line in panel.lines if line.get_linestyle() == "--"]
    assert dashed == [0.7]
