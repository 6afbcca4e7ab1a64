"""Files appear whole or not at all."""

import errno
import os

import pytest

from gtcrn.errors import UserError
from gtcrn.files import expanded, fitting, whole


def test_file_appears_when_the_block_ends(tmp_path):
    path = tmp_path / "folder" / "name.txt"
    with whole(path) as partial:
        partial.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new"
    assert os.listdir(path.parent) == ["name.txt"]


def test_longest_name_can_be_written(tmp_path):
    path = tmp_path / ("n" * 255)
    with whole(path) as partial:
        partial.write_text("x")
    assert path.exists()


def test_failure_keeps_the_old_file_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "name.txt"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), whole(path) as partial:
        partial.write_text("half")
        raise ZeroDivisionError
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["name.txt"]


def test_full_disk_is_reported_in_one_line(tmp_path):
    with pytest.raises(UserError, match=r"name.txt: can't be written \(No space left on device; .* GB free\)$"):
        with whole(tmp_path / "name.txt"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert os.listdir(tmp_path) == []


def test_folder_that_is_a_file_is_reported_in_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="can't be written"), whole(tmp_path / "file" / "name.txt"):
        pass


def test_names_that_cannot_be_used_are_reported_before_the_work(tmp_path):
    (tmp_path / "folder").mkdir()
    for name, reason in (("folder", "Is a directory"), ("n" * 256, "File name too long")):
        with pytest.raises(UserError, match=reason), whole(tmp_path / name):
            raise AssertionError("the work was begun")
    assert os.listdir(tmp_path) == ["folder"]


def test_long_names_are_cut_and_stay_apart():
    long = [f"set/{'é' * 115}{i}" for i in range(12)]
    cut = list(map(fitting, long))
    assert fitting("set/short") == "set/short" and len(set(cut)) == 12
    assert all(name.startswith("set/éé") and len(os.path.basename(name).encode()) <= 231 for name in cut)


def test_folders_of_users_are_found_or_missed_in_one_line(monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    assert str(expanded("~/x")) == "/home/somebody/x"
    with pytest.raises(UserError, match="^~nobody_of_that_name/x: this machine has no user nobody_of_that_name; "):
        expanded("~nobody_of_that_name/x")
