"""Faults of the machine are printed in one line; unforeseen errors keep their traceback in a file."""

import errno
import gc
import importlib
import weakref
from concurrent.futures.process import BrokenProcessPool
from types import SimpleNamespace

import pytest
from hydra.core.hydra_config import HydraConfig
from omegaconf import read_write

from gtcrn import tasks
from gtcrn.errors import UserError

KILLED = RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (UserError("n=0: too few"), "n=0: too few"),
        (OSError(errno.ENOSPC, "No space left on device", "/x/a.wav"), "/x/a.wav: can't be written (No space left on"),
        (OSError(errno.EROFS, "Read-only file system", "/x/out"), "/x/out: can't be written (Read-only file system"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "/proc/x"), "/proc/x: No such file or directory"),
        (OSError(errno.ENOSPC, "No space left on device"), "[Errno 28] No space left on device"),
        (BrokenProcessPool("terminated abruptly"), "a worker process was ended from outside"),
        (KILLED, "a worker process was ended from outside"),
        (MemoryError("Unable to allocate 57 PiB"), "not enough memory (Unable to allocate 57 PiB)"),
        (TypeError("a fault of ours"), None),
    ],
)
def test_what_a_user_can_mend(error, told):
    line = tasks.mendable(error)
    assert line is None if told is None else line.startswith(told) and "\n" not in line


@pytest.mark.parametrize(("error", "code"), [(KILLED, 2), (TypeError("a fault of ours"), 1)])
def test_one_line_and_an_exit_code(command, tmp_path, monkeypatch, capsys, error, code):
    def run(cfg):
        raise error

    cfg = command("task=report")
    with read_write(HydraConfig.instance().cfg.hydra.runtime) as runtime:
        runtime.output_dir = str(tmp_path / "job")
    monkeypatch.setattr(importlib, "import_module", lambda name: SimpleNamespace(run=run))
    with pytest.raises(SystemExit) as exit:
        tasks.run(cfg)
    assert exit.value.code == code and capsys.readouterr().err.count("\n") == 1
    record = tmp_path / "job" / tasks.FAILURE
    assert record.exists() == (code == 1)
    if code == 1:
        assert "Traceback" in record.read_text()


def test_libraries_are_kept_out_of_the_collection_of_garbage(command, monkeypatch):
    collects = []
    task = SimpleNamespace(run=lambda cfg: collects.append(gc.isenabled()))
    monkeypatch.setattr(tasks, "checked", lambda cfg: collects.append(gc.isenabled()) or task)
    tasks.run(command("task=report"))
    assert collects == [False, True] and gc.get_freeze_count()


def test_what_an_earlier_job_left_is_still_collected():
    with tasks.importing():
        pass
    left = type("Left", (), {})()
    left.itself = left
    gone = weakref.ref(left)
    left = None
    with tasks.importing():
        pass
    gc.collect()
    assert gone() is None
