"""Runs read back from folders as runs leave them: finished, failed, cut off, nested, in their thousands."""

import json
import math
from pathlib import Path

import pandas as pd
import pytest
import yaml

from gtcrn.errors import UserError
from gtcrn.reports.runs import curves, differing, read_runs, scores

HERE = "${hydra:runtime.output_dir}"  # run_dir, where it was not typed


def write_run(folder: Path, *typed: str, seed: int = 1, choices=None, summary=None, error=None, **config) -> Path:
    """A run's folder as task=train leaves it; `typed` are overrides in addition to that of the seed."""
    record = folder / ".hydra"
    record.mkdir(parents=True)
    config = {"task": "train", "run_dir": HERE, "seed": seed, "model": {"_target_": "a", "r": 8}} | config
    (record / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    (record / "overrides.yaml").write_text(yaml.safe_dump([*typed, f"seed={seed}"]))
    choices = {"model": "light_v3", "data/loading@data": "default", "hydra/help": "gtcrn"} | (choices or {})
    (record / "hydra.yaml").write_text(yaml.safe_dump({"hydra": {"job": {}, "runtime": {"choices": choices}}}))
    if summary is not None:
        (folder / "summary.json").write_text(json.dumps(summary))
    if error is not None:
        (folder / "error.txt").write_text(error)
    return folder


SUMMARY = {
    "cost": {"mmacs_exact": 12.5},
    "steps": 6,
    "validation": {"val/pesq_wb": 1.5},
    "data_wait": None,
    "bad_files": ["a.wav"],
    "test": {"noisy_pesq_wb": 1.25, "enhanced_pesq_wb": 2.5, "enhanced_stoi": math.nan},
    "seconds": 28.2,
}


def test_a_finished_run_is_a_row_of_all_that_is_known(tmp_path):
    loss = {"terms": {"sisdr": {"weight": 0.5}}}
    data = {"files": ["a", "b"], "rate": "${model.rate}", "cache": None}
    write_run(tmp_path / "0", "model.r=8", "data.files=[a, b]", summary=SUMMARY, loss=loss, data=data)
    frame = read_runs(tmp_path)
    (row,) = frame.to_dict("records")
    assert (row["run"], row["path"], row["state"], row["error"]) == ("0", str(tmp_path / "0"), "finished", "")
    assert row["overrides"] == "model.r=8 'data.files=[a, b]' seed=1"
    assert (row["seconds"], row["steps"], row["seed"]) == (28.2, 6, 1) and math.isnan(row["data_wait"])
    assert (row["model.r"], row["loss.terms.sisdr.weight"], row["data.files"]) == (8, 0.5, "[a, b]")
    assert row["data.rate"] == "${model.rate}" and pd.isna(row["data.cache"])
    assert (row["model"], row["data/loading"]) == ("light_v3", "default")
    assert not [column for column in frame if "hydra" in column or "@" in column]
    assert (row["cost.mmacs_exact"], row["validation.val/pesq_wb"]) == (12.5, 1.5)
    assert row["test.enhanced_pesq_wb"] == 2.5 and math.isnan(row["test.enhanced_stoi"])


def test_states_and_errors(tmp_path):
    write_run(tmp_path / "done", summary=SUMMARY, error="of an earlier attempt")
    write_run(tmp_path / "failed", error="\nmodel.r=-1: must be positive\nTraceback …\n")
    write_run(tmp_path / "mute", error="")
    write_run(tmp_path / "killed")
    (write_run(tmp_path / "cut", summary={}) / "summary.json").write_text('{"cost": {"mmacs_ex')
    (write_run(tmp_path / "list", summary={}) / "summary.json").write_text("[1]")
    (write_run(tmp_path / "binary", summary=SUMMARY) / ".hydra/config.yaml").write_bytes(b"\xff\x00\xfe")
    (write_run(tmp_path / "yaml", summary=SUMMARY) / ".hydra/overrides.yaml").write_text("- {[")
    (write_run(tmp_path / "scalar", summary=SUMMARY) / ".hydra/config.yaml").write_text("nothing here")
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "error.txt").write_text("no configuration was written")
    frame = read_runs(tmp_path).set_index("run")
    assert frame["state"].to_dict() == dict.fromkeys(frame.index, "failed") | {
        "done": "finished",
        "killed": "unfinished",
    }
    assert len(frame) == 10
    assert frame.loc["failed", "error"] == "model.r=-1: must be positive"
    assert frame.loc["mute", "error"] == "error.txt is empty"
    assert frame.loc["bare", "error"] == "no configuration was written"
    assert (frame.loc[["done", "killed"], "error"] == "").all()
    for run, file in {
        "cut": "summary",
        "list": "summary",
        "binary": "config",
        "yaml": "overrides",
        "scalar": "config",
    }.items():
        assert frame.loc[run, "error"].startswith(f"{file}.") and "can't be read: " in frame.loc[run, "error"]
        assert "\n" not in frame.loc[run, "error"]
    assert frame.loc["cut", "model.r"] == 8, "what could be read is there"


def test_runs_are_found_at_any_depth_and_named_from_the_folder(tmp_path):
    for run in ("10", "9", "night/sweep/0", "night/alone"):
        write_run(tmp_path / "a" / run, summary=SUMMARY)
    (tmp_path / "a/9/test").mkdir()
    (tmp_path / "a/9/test/summary.json").write_text("{}")  # a part of the run
    write_run(tmp_path / "b/0", summary=SUMMARY)
    write_run(tmp_path / "b/report", task="report")
    assert list(read_runs(tmp_path / "a")["run"]) == ["9", "10", "night/alone", "night/sweep/0"]
    assert list(read_runs(tmp_path / "a/9")["run"]) == ["9"]
    assert list(read_runs(tmp_path / "a/night", tmp_path / "b", tmp_path / "b/0")["run"]) == [
        "a/night/alone",
        "a/night/sweep/0",
        "b/0",
    ]
    with pytest.raises(UserError, match="nowhere: no such folder"):
        read_runs(tmp_path / "a", tmp_path / "nowhere")


def test_a_folder_without_runs_gives_an_empty_frame(tmp_path):
    frame = read_runs(tmp_path)
    assert frame.empty and {"run", "path", "state", "error", "seed"} <= set(frame)
    assert differing(frame) == [] and curves(frame).empty and scores(frame).empty


def test_results_that_were_sent_elsewhere(tmp_path):
    write_run(tmp_path / "trace", run_dir="../results")
    write_run(tmp_path / "resumed", resume="../results/checkpoints/last.ckpt")
    (tmp_path / "results").mkdir()
    (tmp_path / "results/hparams.yaml").write_text("model:\n  r: 16\nseed: 3\n")
    (tmp_path / "results/summary.json").write_text(json.dumps(SUMMARY))
    frame = read_runs(tmp_path)
    assert frame[["run", "model.r", "seed", "state"]].to_numpy().tolist() == [["results", 16, 3, "finished"]]


def test_an_evaluation_is_a_run_too(tmp_path):
    run = write_run(tmp_path / "0", task="evaluate", summary={"noisy_stoi": 0.75, "enhanced_stoi": 0.875})
    (run / "scores.csv").write_text("name,snr,enhanced_stoi,failures\n007,5,0.875,\n")
    frame = read_runs(tmp_path)
    assert (frame.loc[0, "state"], frame.loc[0, "test.noisy_stoi"], frame.loc[0, "test.enhanced_stoi"]) == (
        "finished",
        0.75,
        0.875,
    )
    assert scores(frame)[["run", "name", "enhanced_stoi"]].to_numpy().tolist() == [["0", "007", 0.875]]


def test_differing_names_what_was_typed_and_not_what_follows(tmp_path):
    write_run(tmp_path / "0", "model=gtcrn", choices={"model": "gtcrn"}, model={"_target_": "g", "width": 2})
    write_run(tmp_path / "1", "model=light_v3", "+model.r=null", model={"_target_": "l", "r": None}, threads=4)
    write_run(tmp_path / "2", "model=light_v3", "++model.r=9", seed=2, model={"_target_": "l", "r": 9})
    assert differing(read_runs(tmp_path)) == ["model", "seed", "model.r"]
    (tmp_path / "3").mkdir()
    (tmp_path / "3/error.txt").write_text("no configuration")
    assert differing(read_runs(tmp_path)) == ["model", "seed", "model.r"], "no configuration is no difference"


def test_differing_sees_dictionaries_and_changed_configurations(tmp_path):
    write_run(tmp_path / "0", "data.speech={vctk:{weight:1}}", data={"speech": {"vctk": {"weight": 1}}}, lr=0.1)
    write_run(tmp_path / "1", "data.speech={vctk:{weight:2}}", data={"speech": {"vctk": {"weight": 2}}}, lr=0.1)
    assert differing(read_runs(tmp_path)) == ["data.speech.vctk.weight"]
    write_run(tmp_path / "2", "data.speech={vctk:{weight:2}}", data={"speech": {"vctk": {"weight": 2}}}, lr=0.2, new=1)
    assert differing(read_runs(tmp_path)) == ["data.speech.vctk.weight", "lr"], (
        "a file of conf/ was edited between runs"
    )


def test_curves_are_long_and_without_the_line_being_written(tmp_path):
    run = write_run(tmp_path / "0")
    (run / "metrics.csv").write_text("epoch,step,train/loss,val/stoi\n0,9,2.5,\n0,10,,0.5\n1,19,nan,\n1,20,,0.8")
    (write_run(tmp_path / "1") / "metrics.csv").write_text("epoch,step,train/loss\n0,9,3.5\n")
    (write_run(tmp_path / "2") / "metrics.csv").write_bytes(b"\xff\xfe,\n\xff")
    (write_run(tmp_path / "3") / "metrics.csv").write_text("")
    write_run(tmp_path / "4")
    frame = curves(read_runs(tmp_path))
    assert list(frame) == ["run", "step", "epoch", "metric", "value"]
    assert set(frame.itertuples(index=False, name=None)) == {
        ("0", 9, 0, "train/loss", 2.5),
        ("0", 10, 0, "val/stoi", 0.5),
        ("1", 9, 0, "train/loss", 3.5),
    }
    assert set(curves(read_runs(tmp_path), ["val/stoi", "val/other"])["metric"]) == {"val/stoi"}


def test_scores_of_all_runs_in_one_frame(tmp_path):
    for run, value in (("0", 0.5), ("1", 0.75)):
        (write_run(tmp_path / run, summary=SUMMARY) / "test").mkdir()
        (tmp_path / run / "test/scores.csv").write_text(f"name,snr,enhanced_stoi,failures\nNA,5,{value},\nb,,,silent\n")
    write_run(tmp_path / "2")
    frame = scores(read_runs(tmp_path))
    assert frame["run"].tolist() == ["0", "0", "1", "1"] and frame["name"].tolist() == ["NA", "b"] * 2
    assert frame["enhanced_stoi"].dropna().tolist() == [0.5, 0.75]


def test_thousands_of_runs(tmp_path):
    for number in range(2000):
        folder = tmp_path / str(number)
        (folder / ".hydra").mkdir(parents=True)
        (folder / ".hydra/config.yaml").write_text(f"task: train\nrun_dir: {HERE}\nmodel:\n  r: {number}\nseed: 1\n")
        (folder / "summary.json").write_text(f'{{"test": {{"enhanced_stoi": {number}}}}}')
    frame = read_runs(tmp_path)
    assert frame["model.r"].tolist() == list(range(2000))
    assert (frame["test.enhanced_stoi"] == frame["model.r"]).all()
    assert differing(frame) == ["model.r"]
