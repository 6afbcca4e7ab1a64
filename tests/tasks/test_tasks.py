"""How a task ends, whichever it is."""

import os
import signal
import sys
import time
from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf

import gtcrn.tasks


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_end_a_task_in_one_line(monkeypatch, capsys, number, code):
    def wait(cfg):
        os.kill(os.getpid(), number)
        time.sleep(10)

    monkeypatch.setitem(sys.modules, "gtcrn.tasks.waiting", SimpleNamespace(run=wait))
    former = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as end:
            gtcrn.tasks.run(OmegaConf.create({"task": "waiting", "model": {}, "sweep": {"resume": False}}))
    finally:
        signal.signal(signal.SIGTERM, former)
    assert end.value.code == code
    assert capsys.readouterr().err == "error: interrupted\n"
