"""The search of folders that all tasks share finds the audio files and logs those that it leaves out."""

import logging
import os

import numpy as np
import pytest

from gtcrn.data import audio
from gtcrn.data.folders import listed_lines, search
from gtcrn.data.manifest import open_manifest, usable
from gtcrn.data.noisy import NoisyRecordings
from gtcrn.data.scan import scan
from gtcrn.data.shards import audio_files
from gtcrn.errors import UserError
from gtcrn.tasks.enhance import find_jobs
from gtcrn.tasks.evaluate import _audio_in


@pytest.fixture
def tree(tmp_path):
    """Write files in folders of their own, and one behind a link; `linked/back` leads back to the beginning."""
    root = tmp_path / "in"
    for name in ("b.wav", "a/c.AIFF", "a/d/e.flac", "../elsewhere/f.opus"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        audio.write(root / name, np.full(16000, 0.1, np.float32), 16000)
    os.symlink(tmp_path / "elsewhere", root / "linked")
    os.symlink(root, tmp_path / "elsewhere/back")
    return root


FOUND = ["b.wav", "a/c.AIFF", "a/d/e.flac", "linked/f.opus"]


def test_every_task_finds_the_same(tree, tmp_path):
    assert search(tree).files == FOUND
    assert list(audio_files(tree)) == FOUND
    assert [str(file.path.relative_to(tree)) for file in open_manifest(tree, "data.speech", tmp_path)] == FOUND
    assert [str(path.relative_to(tree)) for path, _ in find_jobs(tree, tmp_path / "out")[0]] == FOUND
    assert list(_audio_in(tree, "clean")) == ["b", "a/c", "a/d/e", "linked/f"]


def test_a_link_that_leads_to_itself_is_one_file_that_fails(tree, tmp_path):
    os.symlink("a.wav", tree / "a.wav")
    jobs, _ = find_jobs(tree, tmp_path / "out")
    assert search(tree).files == [str(path.relative_to(tree)) for path, _ in jobs] == ["a.wav", *FOUND]
    [bad] = usable(open_manifest(tree, "data.speech", tmp_path), 16000)[1]
    assert str(bad) == f"{tree / 'a.wav'}: not readable as audio: no such file"


def test_the_output_within_the_input_is_spared(tree):
    assert search(tree, spared=tree / "a").files == ["b.wav", "linked/f.opus"]
    assert search(tree, spared=tree).files == search(tree, spared=tree / "none").files == FOUND


def test_what_is_left_out_is_logged(tree, caplog):
    for name in ("x.m4a", "a/y.M4A", "notes.txt", "README", ".DS_Store", "._b.wav"):
        (tree / name).touch()
    with caplog.at_level(logging.INFO):
        search(tree)
        search(tree)
    assert [record.getMessage().replace(str(tree), "in") for record in caplog.records] == [
        "in/linked/back: leads to a folder that is searched already",
        "in: left out 2 .m4a (x.m4a): formats that are not read here; convert them, e.g. ffmpeg -i NAME NAME.flac",
        "in: left out 1 without suffix (README), 1 .txt (notes.txt): no audio",
    ]


def test_unreadable_folders_are_reported(tree, tmp_path, monkeypatch):
    scandir = os.scandir

    def closed(folder):
        if str(folder).endswith("/d"):
            raise PermissionError(13, "Permission denied")
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", closed)
    reason = "unreadable folder: Permission denied"
    assert search(tree).unreadable == {"a/d": reason}
    assert find_jobs(tree, tmp_path / "out")[1] == [f"{tree}/a/d: {reason}"]
    for function in (lambda: audio_files(tree), lambda: _audio_in(tree, "clean")):
        with pytest.raises(UserError, match=f"a/d: {reason}"):
            function()


def test_a_name_that_is_no_utf8_and_a_pipe_are_bad_files(tree, tmp_path):
    os.rename(tree / "b.wav", os.fsencode(tree) + b"/caf\xe9.wav")
    os.mkfifo(tree / "pipe.wav")
    good, bad = usable(open_manifest(tree, "data.speech", tmp_path), 16000)
    assert [str(file.path.relative_to(tree)) for file in good] == FOUND[1:]
    assert {str(file.path.relative_to(tree)): file.problem for file in bad} == {
        "caf\\udce9.wav": "its name is not UTF-8; rename it",
        "pipe.wav": "not readable as audio: a folder, pipe or device, and not a file",
    }


def test_lists_come_from_any_system(tmp_path):
    (tmp_path / "list.txt").write_bytes("\ufeff# heading\r\nwith space.wav\r\n\r\ncaf".encode() + b"\xe9.wav")
    assert listed_lines(tmp_path / "list.txt") == ["with space.wav", "caf\udce9.wav"]


def test_a_name_that_is_no_utf8_is_a_bad_pair(tree, tmp_path):
    os.rename(tree / "b.wav", os.fsencode(tree) + b"/caf\xe9.wav")
    recordings = NoisyRecordings(str(tree), 0.3)
    pairs = [pair for split in ("train", "validation") for pair in recordings.pairs(split)]
    good, bad = scan(pairs, 16000, tmp_path / "cache")
    assert sorted(pair.name for pair in good) == ["a/c", "a/d/e", "linked/f"]
    assert list(map(str, bad)) == [f"{tree}/caf\\udce9.wav: its name is not UTF-8; rename it"]
