"""Models, corpora and registered metrics of a user's own need no edit of the framework."""

import sys
from pathlib import Path

import pytest

from gtcrn.errors import UserError
from gtcrn.metrics import METRICS
from gtcrn.tasks import checked
from gtcrn.tasks.checking import check
from gtcrn.tasks.sweep import SweepCallback

METRIC = """
from gtcrn.metrics import register

@register("own_metric", label="own", range="from 0", more_is_better=True)
def own_metric(clean, enhanced, sample_rate):
    return 1.0
"""


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_a_model_and_a_corpus_of_ones_own_get_nothing_they_did_not_ask_for(command, own_folder):
    write(own_folder / "own_module.py", "def build(size: int = 1): ...\n")
    write(own_folder / "conf/model/own.yaml", "_target_: own_module.build\nsize: 2\n")
    write(own_folder / "conf/data/own.yaml", "_target_: own_module.build\n")
    own = ["model=own", "data=own", f"hydra.searchpath=['file://{own_folder}/conf']"]
    cfg = command(*own)
    checked(cfg)
    assert dict(cfg.model) == {"_target_": "own_module.build", "size": 2}
    assert (cfg.trainer.max_epochs, cfg.optimizer.lr) == (100, 1e-3)  # not those of the demo's few minutes
    with pytest.raises(UserError, match="model.causal: own_module.build has no such key; there are size"):
        check(command(*own, "streaming=offline"))


def test_a_module_is_found_beside_the_command_after_what_is_installed(command, own_folder):
    write(own_folder / "own_module.py", METRIC)
    write(own_folder / "torch.py", "raise RuntimeError")
    checked(command("imports=[own_module]", "metrics.test=[own_metric]"))
    assert METRICS["own_metric"].more_is_better and sys.path[-1] == str(own_folder)


@pytest.mark.parametrize(
    ("imports", "message"),
    [
        ("nowhere", r"imports=nowhere: must be a list of text"),
        ("[nowhere]", r"imports=\[nowhere\]: can't be imported \(.*\); a module of your own is found in the folder in"),
        ("[own_module]", r"imports=\[own_module\]: can't be imported \(SystemExit: no licence\)"),
        ("[broken_module]", r"imports=\[broken_module\]: can't be imported \(KeyError: 'x'\)"),
    ],
)
def test_modules_that_can_not_be_imported(command, own_folder, imports, message):
    write(own_folder / "broken_module.py", "{}['x']\n")
    write(own_folder / "own_module.py", "raise SystemExit('no licence')\n")
    with pytest.raises(UserError, match=message):
        checked(command(f"imports={imports}"))


def test_a_target_whose_module_ends_the_process(command, own_folder):
    write(own_folder / "own_module.py", "raise SystemExit('no licence')\n")
    with pytest.raises(UserError, match="model._target_=own_module.build: can't be found .no licence."):
        checked(command("model._target_=own_module.build"))


def test_a_choice_with_the_name_of_one_of_ours_is_refused(command, own_folder):
    """Hydra would take ours without a word."""
    write(own_folder / "conf/model/light_v3.yaml", "_target_: own_module.build\n")
    searched = f"hydra.searchpath=['file://{own_folder}/conf']"
    with pytest.raises(UserError, match="model=light_v3: .*/conf/model/light_v3.yaml has the name of one of ours"):
        checked(command(searched))
    checked(command(searched, "model=gtcrn"))


def test_a_sweep_knows_the_direction_of_a_registered_metric(command, own_folder, monkeypatch):
    """The launching process ranks the jobs, which may run in others."""
    write(own_folder / "own_module.py", METRIC)
    monkeypatch.setattr("gtcrn.tasks.sweep._check_plugins", lambda config: None)
    config = command("imports=[own_module]")
    with pytest.raises(Exception, match="hydra"):  # the rest of it needs Hydra's own part of the configuration
        SweepCallback().on_multirun_start(config)
    assert "own_metric" in METRICS
    with pytest.raises(SystemExit, match="error: imports=.nowhere.: can't be imported"):
        SweepCallback().on_multirun_start(command("imports=[nowhere]"))
