"""How the command begins: what it answers before torch is imported, and Ctrl-C while libraries are."""

import os
import signal
import subprocess
import sys

import pytest
from fixtures.commands import start_command


def imported(stderr: str) -> set[str]:
    """Return the modules that a process imported, from what `python -X importtime` wrote."""
    return {line.rsplit("|", 1)[-1].strip() for line in stderr.splitlines() if line.startswith("import time:")}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--help"], "task=evaluate"),
        (["--cfg", "job", "model=gtcrn"], "channels: 16"),
        (["model.witdh_mult=1"], "error: model.witdh_mult: there is no such key; did you mean width_mult?"),
        (["model=ligth_v3"], "error: model=ligth_v3: there is no such choice; did you mean light_v3?"),
        (["task=evalute"], "error: task=evalute: there is no such choice; did you mean evaluate?"),
        (["seed=-1"], "error: seed=-1: must be a whole number from 0 to 4294967295"),
        (["task=enhance", "level=loud"], "error: level=loud: must be one of as_is, normalise"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_answers_before_torch_is_imported(tmp_path, arguments, told):
    process = start_command(tmp_path, *arguments, python=("-X", "importtime"))
    out, err = process.communicate(timeout=120)
    assert told in out + err
    assert process.returncode == (2 if told.startswith("error") else 0)
    modules = imported(err)
    assert "hydra" in modules and not modules & {"torch", "scipy", "pandas"}
    assert not list(tmp_path.glob("outputs/*/*"))


LISTING = """
import sys
from hydra.core.config_store import ConfigStore
from gtcrn.__main__ import main

class Store(dict):
    def __deepcopy__(self, memo):
        raise AssertionError("the store of registered configurations is copied")

store = ConfigStore.instance()
store.repo = Store(store.repo)
main()
"""


@pytest.mark.parametrize(
    ("arguments", "listed"), [(["--help"], "model: all, dtln"), (["-sc", "query=bash"], "model=light_v3")]
)
def test_choices_are_listed_without_copying_what_is_registered(tmp_path, arguments, listed):
    """Hydra 1.3 copies it more than a hundred times, which takes longer than all the rest."""
    command = [sys.executable, "-c", LISTING, *arguments]
    typed = {"COMP_LINE": "gtcrn model=", "COMP_POINT": "12"}
    result = subprocess.run(command, cwd=tmp_path, env=os.environ | typed, capture_output=True, text=True)
    assert listed in result.stdout and result.stderr == ""


def test_wandb_is_imported_before_torch(tmp_path):
    """For each of its classes W&B looks through all modules that are imported, of which torch brings thousands."""
    (tmp_path / "wandb.py").write_text("")
    (tmp_path / "torch.py").write_text("import sys\nprint('wandb' in sys.modules)\nraise ImportError")
    process = start_command(tmp_path, env=os.environ | {"PYTHONPATH": str(tmp_path)})
    assert process.communicate(timeout=30)[0].startswith("True")


STOPS = [(signal.SIGINT, 130), (signal.SIGTERM, 143)]


@pytest.mark.parametrize(("stop", "code"), STOPS)
@pytest.mark.parametrize("library", ["hydra", "filelock", "torch"])
def test_stopped_while_a_library_is_imported(tmp_path, library, stop, code):
    """The library takes long, and two of the three lose the exception that a signal raises; Hydra imports the other."""
    (tmp_path / f"{library}.py").write_text(
        "import time\n"
        "print('importing', flush=True)\n"
        "try:\n"
        "    time.sleep(60)\n"
        f"except {'Exception' if library == 'filelock' else 'BaseException'}:\n"
        "    raise ImportError('no such symbol')\n"
    )
    process = start_command(tmp_path, env=os.environ | {"PYTHONPATH": str(tmp_path)})
    assert process.stdout.readline() == "importing\n"
    process.send_signal(stop)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (code, "", "error: interrupted\n")
    assert not list(tmp_path.glob("outputs/*/*"))


def test_a_missing_package_is_named(tmp_path):
    """Where only what `gtcrn.runtime` needs is installed, there is no Hydra."""
    (tmp_path / "hydra.py").write_text("raise ModuleNotFoundError(\"No module named 'hydra'\", name='hydra')")
    process = start_command(tmp_path, "--help", env=os.environ | {"PYTHONPATH": str(tmp_path)})
    _, told = process.communicate(timeout=30)
    assert (process.returncode, told.count("\n")) == (1, 1)
    assert told.startswith("error: the command gtcrn needs the package hydra: pip install")


def test_output_that_nobody_reads_is_no_error(tmp_path):
    with start_command(tmp_path, "--help", stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 1
