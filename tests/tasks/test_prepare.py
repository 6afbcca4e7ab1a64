"""task=prepare as a user runs it."""

import csv
import json
import logging
from pathlib import Path

import matplotlib.image
import numpy as np
import pandas as pd
import pytest
import soundfile
from fixtures.commands import run_command

from gtcrn.data.manifest import open_manifest
from gtcrn.errors import UserError


@pytest.fixture
def folder(recordings, tmp_path):
    """Return a folder with a corpus of three good and three useless files."""
    corpus = tmp_path / "corpus"
    (corpus / "sub").mkdir(parents=True)
    for number, path in enumerate(sorted((recordings / "dns_mini" / "extra_clean").glob("*.wav"))[:3]):
        (corpus / ("sub" if number else "") / path.name).symlink_to(path)
    (corpus / "garbage.wav").write_text("garbage")
    soundfile.write(corpus / "silent.wav", np.zeros(22050), 22050)
    whole = (corpus / "sub" / "LJ001-0002.wav").read_bytes()
    (corpus / "sub" / "truncated.wav").write_bytes(whole[: len(whole) // 2])
    return tmp_path


@pytest.fixture
def run(perform):
    """Return a function that runs a step in this process, from `folder/corpus` into `folder/<step>` by default."""

    def prepare(folder, step, *overrides):
        places = [f"cache_dir={folder}/cache", f"data.cache_dir={folder}/cache", "workers=1"]
        if step not in ("degrade", "rooms"):
            places += [f"input={folder}/corpus"]
        if step != "manifest":
            places += [f"output={folder}/{step}"]
        perform("task=prepare", f"prepare={step}", *places, *overrides)

    return prepare


@pytest.mark.parametrize("step", ["resample", "segment", "filter", "pack", "manifest"])
def test_bad_files_are_named_and_the_rest_is_done(run, folder, step, caplog):
    overrides = ["prepare.least_seconds=1"] if step == "segment" else []
    output = folder / ("corpus" if step == "manifest" else step)
    with pytest.raises(UserError) as error:
        run(folder, step, *overrides)
    assert str(error.value).startswith("3 of no use, the first: ")
    assert f"all are in {output / 'failures.csv'}" in str(error.value) and "\n" not in str(error.value)
    with open(output / "failures.csv") as file:
        told = {Path(row["path"]).name: row["problem"] for row in csv.DictReader(file)}
    assert {name: problem.split(" ")[0].rstrip(":") for name, problem in told.items()} == {
        "garbage.wav": "not",
        "silent.wav": "silent",
        "truncated.wav": "truncated",
    }
    assert sum(any(name in message for name in told) for message in caplog.messages) >= 3
    good = [file for file in open_manifest(output, "input", None) if not file.problem]
    assert len(good) == 3


def test_filter_reports(run, folder):
    run(folder, "filter", "prepare.least_snr=30", "on_bad_file=skip")
    output = folder / "filter"
    report = (output / "report.md").read_text()
    assert report.startswith("# 2 of 6 files kept")
    assert "| snr below 30 | 1 |" in report and "| being of no use (failures.csv) | 3 |" in report
    assert "| sub/LJ001-0002.wav | 22.57 |" in report
    assert matplotlib.image.imread(output / "report.png").shape[:2] == (810, 1350)
    run(folder, "filter", "prepare.least_snr=20", "on_bad_file=skip")
    assert (output / "report.md").read_text().startswith("# 3 of 6 files kept")
    assert json.loads((output / "prepare.json").read_text())["prepare.least_snr"] == 20


def test_degrade_records_its_data(run, folder, recordings):
    mini = recordings / "dns_mini"
    places = [f"data.speech={mini}/extra_clean", f"data.noise={mini}/noise", f"data.rir={mini}/rir"]
    overrides = ["data=dns", "data.held_out_by=file", *places, "prepare.items=6"]
    run(folder, "degrade", *overrides, "max_files=4")
    assert len(list((folder / "degrade" / "clean").iterdir())) == 4
    run(folder, "degrade", *overrides, "data.num_workers=7")
    assert len(list((folder / "degrade" / "clean").iterdir())) == 6
    with pytest.raises(UserError, match=r"made with data.recipe.snr=\[-5, 20\], not \[0, 20\]"):
        run(folder, "degrade", *overrides, "data.recipe.snr=[0,20]")


def test_rooms_are_impulse_responses_of_a_corpus(run, folder, recordings):
    pytest.importorskip("pyroomacoustics", reason="needs the extra rooms")
    run(folder, "rooms", "prepare.items=2", "prepare.rt60=[0.2,0.3]")
    rooms = folder / "rooms"
    assert matplotlib.image.imread(rooms / "rooms.png").shape[:2] == (450, 1350)
    mini = recordings / "dns_mini"
    places = [f"data.speech={mini}/extra_clean", f"data.noise={mini}/noise", f"data.rir={rooms}"]
    run(folder, "degrade", "data=dns", "data.held_out_by=file", *places, "data.recipe.reverb=1", "prepare.items=2")
    assert set(pd.read_csv(folder / "degrade" / "table.csv")["rir"]) <= {str(path) for path in rooms.glob("*.wav")}


def test_max_files_tries_it_out(run, folder):
    (folder / "corpus" / "garbage.wav").unlink()
    run(folder, "resample", "max_files=1")
    assert len(open_manifest(folder / "resample", "input", None)) == 1
    run(folder, "resample", "on_bad_file=skip")
    assert len(open_manifest(folder / "resample", "input", None)) == 3


def test_a_share_tells_that_it_is_one(run, folder, caplog):
    caplog.set_level(logging.INFO)
    run(folder, "resample", "shard_count=2", "on_bad_file=skip")
    assert "this share is done; the last of the 2 runs writes the tables of all of them" in caplog.messages
    run(folder, "resample", "shard_count=2", "shard_index=1", "on_bad_file=skip")
    assert any(message.startswith("3 files done, 3 of no use: ") for message in caplog.messages)


@pytest.mark.parametrize(
    ("step", "override", "message"),
    [
        (
            "manifest",
            "input=null",
            "needs input=… (other steps are prepare=resample|segment|filter|pack|degrade|rooms)",
        ),
        ("pack", "output=null", "needs output=…"),
        ("rooms", "output=null", "needs output=…"),
        ("rooms", "input=corpus", "input=corpus: prepare=rooms reads no folder"),
        ("rooms", "prepare.rt60=0.5", "prepare.rt60=0.5: must be a list of 2 numbers"),
        ("rooms", "prepare.distance=[3,1]", "prepare.distance=[3,1]: give [lowest,highest], above 0"),
        ("degrade", "input=corpus", "input=corpus: prepare=degrade reads no folder"),
        ("resample", "input=nowhere", "input=nowhere: no such file or folder"),
        ("resample", "prepare.sample_rate=fast", "prepare.sample_rate=fast: must be a whole number"),
        ("resample", "prepare.format=mp3", "prepare.format=mp3 is not one of flac, wav, float"),
        ("resample", "prepare.channels=left", "prepare.channels=left is not one of"),
        ("segment", "prepare.hop=0", "prepare.hop=0: must be at least"),
        ("pack", "prepare.shard_mb=-1", "prepare.shard_mb=-1: must be above 0"),
        ("pack", "workers=0", "workers=0: must be a whole number"),
        ("pack", "shard_index=1", "shard_index=1 of shard_count=1"),
        ("pack", "on_bad_file=ignore", "on_bad_file=ignore: must be one of fail, skip"),
        ("manifest", "shard_count=2", "work for one machine"),
        ("manifest", "output=here.csv", "here.csv: a manifest is a file"),
    ],
)
def test_mistakes_are_told(run, folder, step, override, message):
    with pytest.raises(UserError) as error:
        run(folder, step, override)
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("output", ["corpus", "corpus/new", "."])
def test_input_and_output_lie_apart(run, folder, output):
    with pytest.raises(UserError, match="one lies in the other"):
        run(folder, "resample", f"output={folder / output}")
    assert not list(folder.rglob(".prepare"))


@pytest.mark.slow
def test_the_command(folder):
    """The step of the command line runs in processes of its own, and exits with code 2 for bad files."""
    overrides = ["input=corpus", "output=out", "cache_dir=cache", "workers=2"]
    result = run_command(folder, "task=prepare", "prepare=resample", *overrides)
    assert result.returncode == 2 and "Traceback" not in result.stderr
    assert result.stderr.splitlines()[-1].startswith("error: 3 of no use, the first: ")
    assert len(open_manifest(folder / "out", "input", None)) == 3
