"""Whatever happens to a job, in the end its folder is that of an uninterrupted run."""

import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from gtcrn.data.manifest import open_manifest
from gtcrn.data.preparation.manifests import make_manifest
from gtcrn.data.preparation.output import OutputError, OutputFolder
from gtcrn.data.preparation.packing import Pack
from gtcrn.data.preparation.resample import Resample
from gtcrn.data.preparation.segment import Segment
from gtcrn.data.preparation.selection import Filter
from gtcrn.errors import UserError

STEPS = {
    "resample": Resample(16000, None, "keep", "flac", True),
    "segment": Segment(1.0, None, 0.5, 0.1, "wav", False),
    "filter": Filter(None, 0.001, 0.9, 3000),
    "pack": Pack(1, False),
}
RESAMPLE = STEPS["resample"]

SCRIPT = """
import pickle, sys
from pathlib import Path
from gtcrn.data.manifest import open_manifest
from gtcrn.data.preparation import jobs
from gtcrn.data.preparation.output import OutputFolder
step, source, output, cache, jobs._PARTS = pickle.load(sys.stdin.buffer)
output = OutputFolder(output)
with output.locked():
    output.check_settings({"step": type(step).__name__})
    jobs.run_job(step, step.work_items(open_manifest(source, "input", cache)), output, workers=2)
"""


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """Write enough files for a job to be killed in the middle of them."""
    folder = tmp_path_factory.mktemp("large")
    rng = np.random.default_rng(0)
    for number in range(48):
        file = folder / f"{number % 3}" / f"p{number % 7}_{number:03d}.wav"
        file.parent.mkdir(exist_ok=True)
        soundfile.write(file, rng.uniform(-1, 1, 48000 * 3) * rng.uniform(0.1, 1), 48000)
    return folder


def started(step, source, output, cache, parts=1000):
    process = subprocess.Popen([sys.executable, "-c", SCRIPT], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
    process.stdin.write(pickle.dumps((step, source, output, cache, parts)))
    process.stdin.close()
    return process


def wait_for(condition):
    for _ in range(6000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("nothing happened in a minute")


@pytest.mark.parametrize("name", ["resample", "filter", "pack"])
def test_a_kill_leaves_nothing_half_done_and_the_rerun_ends_the_same(prepare, contents, large, tmp_path, name):
    step, killed, whole = STEPS[name], tmp_path / "killed", tmp_path / "whole"
    prepare(step, large, whole)
    process = started(step, large, killed, tmp_path / "cache")
    wait_for(lambda: len(list(killed.glob(".prepare/part-*"))) >= 5)
    assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    expected, left = contents(whole), contents(killed)
    partial = {file for file in left if file.startswith(".prepare/run-0-of-1/")}
    assert not {"manifest.arrow", "shards.arrow"} & left.keys()
    assert all(left[file] == expected[file] for file in left.keys() - partial)
    before = {file: (killed / file).stat().st_mtime_ns for file in left.keys() - partial if file.endswith("json")}
    assert prepare(step, large, killed).complete
    assert contents(killed) == expected
    assert all((killed / file).stat().st_mtime_ns == moment for file, moment in before.items())  # not done again


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_the_processes_of_a_killed_run_end_with_it(large, tmp_path):
    """They would write beside the next run otherwise: here each of the two has 24 files to do in one part."""
    out = tmp_path / "out"
    process = started(RESAMPLE, large, out, tmp_path / "cache", parts=2)
    wait_for(lambda: len(list(out.rglob("*.flac"))) >= 3)
    assert process.poll() is None
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    workers = [
        Path("/proc", child) for child in children if "popen_loky" in Path("/proc", child, "cmdline").read_text()
    ]
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(workers) == 2
    wait_for(lambda: not any(map(is_alive, workers)))
    assert len([path for path in out.glob("[0-9]/*.flac")]) < 24


def is_alive(process):
    try:
        return "State:\tZ" not in (process / "status").read_text()
    except OSError:
        return False


def test_machines_share_a_job_and_the_last_one_ends_it(prepare, contents, large, tmp_path):
    whole, shared = tmp_path / "whole", tmp_path / "shared"
    prepare(RESAMPLE, large, whole)
    (shared / ".prepare" / "run-1-of-3").mkdir(parents=True)
    (shared / ".prepare" / "run-1-of-3" / ".of_another.flac").write_text("in use by another machine")
    first = prepare(RESAMPLE, large, shared, shard=(2, 3))
    assert not first.complete and len(list(shared.rglob("*.flac"))) == 16 + 1
    assert not prepare(RESAMPLE, large, shared, shard=(0, 3)).complete
    assert (shared / ".prepare" / "run-1-of-3" / ".of_another.flac").exists()
    assert not (shared / "manifest.arrow").exists()
    assert prepare(RESAMPLE, large, shared, shard=(1, 3)).complete
    files, expected = contents(shared), contents(whole)
    assert {name: digest for name, digest in files.items() if not name.endswith(".lock")} == {
        name: digest for name, digest in expected.items() if not name.endswith(".lock")
    }
    # one machine finds done what three have done
    moments = {path: path.stat().st_mtime_ns for path in shared.rglob("*.flac")}
    assert prepare(RESAMPLE, large, shared).complete
    assert moments == {path: path.stat().st_mtime_ns for path in shared.rglob("*.flac")}


def test_only_what_changed_is_done_again(prepare, corpus, tmp_path):
    out = tmp_path / "out"
    prepare(RESAMPLE, corpus, out)
    files = sorted(out.rglob("*.flac"))
    for file in files:
        os.utime(file, ns=(2**61, 2**61))
    missing, outdated, changed, *same = files
    missing.unlink()
    os.utime(outdated, ns=(0, 0))
    source = (corpus / changed.relative_to(out)).with_suffix(".wav")
    soundfile.write(source, soundfile.read(source)[0][:20000], 22050)
    outcome = prepare(RESAMPLE, corpus, out)
    assert outcome.complete and all(file.stat().st_mtime_ns == 2**61 for file in same)
    assert missing.exists() and 0 < outdated.stat().st_mtime_ns < 2**61 and soundfile.info(changed).frames == 14512
    assert [file.frames for file in open_manifest(out, "input", None)].count(14512) == 1
    prepare(RESAMPLE, corpus, out, again=True)
    assert all(file.stat().st_mtime_ns < 2**61 for file in files)


def test_pieces_that_a_shorter_source_no_longer_has_go_away(prepare, corpus, tmp_path):
    out, source = tmp_path / "out", corpus / "b.wav"
    prepare(STEPS["segment"], corpus, out)
    assert (out / "b_0001.wav").exists()
    soundfile.write(source, soundfile.read(source)[0][:22050], 22050)
    prepare(STEPS["segment"], corpus, out)
    assert (out / "b_0000.wav").exists() and not (out / "b_0001.wav").exists()
    assert {str(file.path) for file in open_manifest(out, "input", None)} == {str(path) for path in out.rglob("*.wav")}


def test_files_that_come_and_go(prepare, contents, corpus, tmp_path):
    prepare(RESAMPLE, corpus, tmp_path / "out")
    soundfile.write(corpus / "new.wav", np.full(22050, 0.5), 22050)
    prepare(RESAMPLE, corpus, tmp_path / "out")
    prepare(RESAMPLE, corpus, tmp_path / "whole")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_files_that_go_bad_are_named_and_the_rest_is_done(prepare, corpus, tmp_path):
    out, manifest = tmp_path / "out", tmp_path / "known.arrow"
    known = open_manifest(corpus, "input", tmp_path / "cache")
    make_manifest(known, manifest, False, None)
    names = ["b.wav", "reader one/p1_01.wav", "reader one/p1_02.wav"]
    wave = soundfile.read(corpus / names[0], dtype="float32")[0]
    (corpus / names[0]).write_bytes(b"garbage")
    soundfile.write(corpus / names[1], wave[:1000], 22050)
    soundfile.write(corpus / names[2], np.where(np.arange(len(wave)) == 7, np.nan, wave), 22050, subtype="FLOAT")
    outcome = prepare(RESAMPLE, manifest, out)
    failures = (out / "failures.csv").read_text()
    assert outcome.complete and len(outcome.bad) == 3 and len(list(out.rglob("*.flac"))) == 2
    for name, problem in zip(names, ("not readable as audio", "truncated, or changed", "NaN or infinite")):
        assert any(name in line and problem in line for line in failures.splitlines())
    for name in names:
        soundfile.write(corpus / name, wave, 22050)  # mended
    assert prepare(RESAMPLE, manifest, out).bad == []
    assert not (out / "failures.csv").exists() and len(list(out.rglob("*.flac"))) == 5


def test_nothing_of_use(prepare, tmp_path):
    (tmp_path / "in").mkdir()
    soundfile.write(tmp_path / "in" / "a.wav", np.full(100, 0.1), 8000)
    with pytest.raises(UserError, match="nothing of the input is of use, e.g. .*a.wav: wrong rate"):
        prepare(RESAMPLE, tmp_path / "in", tmp_path / "out")


def test_an_output_that_cannot_be_written_ends_the_job(prepare, corpus, tmp_path):
    OutputFolder(tmp_path / "out").records_folder.mkdir(parents=True)
    with OutputFolder(tmp_path / "out").locked():
        OutputFolder(tmp_path / "out").check_settings({"step": "Resample"})
    (tmp_path / "out" / "reader one").write_text("where a folder should be")
    with pytest.raises(OutputError, match="out/reader one/.*can't be written"):
        prepare(RESAMPLE, corpus, tmp_path / "out")
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file: can't be written"):
        prepare(RESAMPLE, corpus, tmp_path / "file")


def test_a_folder_is_made_in_one_way_by_one_run(prepare, corpus, tmp_path):
    out = tmp_path / "out"
    prepare(RESAMPLE, corpus, out)
    with pytest.raises(UserError, match="was made with step=Resample, not Segment"):
        prepare(STEPS["segment"], corpus, out)
    with OutputFolder(out).locked(), pytest.raises(UserError, match="another run is writing there"):
        prepare(RESAMPLE, corpus, out)
    with pytest.raises(UserError, match=r"holds b.wav, but no prepare.json"):
        prepare(RESAMPLE, out, corpus)
    assert not (corpus / ".prepare").exists()
    with pytest.raises(UserError, match="shard_index=2 of shard_count=2"):
        OutputFolder(out, 2, 2)


def test_two_files_never_become_one(prepare, corpus, tmp_path):
    soundfile.write(corpus / "b.flac", np.full(1000, 0.1), 22050)
    with pytest.raises(UserError, match="b.flac and b.wav would become one file"):
        prepare(RESAMPLE, corpus, tmp_path / "out")
    assert prepare(STEPS["pack"], corpus, tmp_path / "packed").complete
