"""Every experiment and recipe in conf/experiment composes into a model, a loss and a way to train."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.utils import get_object

from gtcrn.tasks.building import build
from gtcrn.tasks.checking import check

CONF = Path(__file__).parents[2] / "conf"
EXPERIMENTS = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))


def composed(*overrides: str, hydra: bool = False):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", list(overrides), return_hydra_config=hydra)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_parts_can_be_built(command, name):
    cfg = command(f"experiment={name}")
    build(cfg.model)
    build(cfg.loss)
    check(cfg)
    assert get_object(cfg.training._target_)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_value_of_a_sweep_composes(name):
    cfg = composed(f"experiment={name}", hydra=True)
    for key, values in (cfg.hydra.sweeper.get("params") or {}).items():
        override = OverridesParser.create().parse_override(f"{key}={values}")
        assert override.is_sweep_override(), "a sweep of one value is none"
        for value in override.sweep_string_iterator():
            composed(f"experiment={name}", f"{key}={value}")


@pytest.mark.parametrize("name", ["gtcrn_vctk_demand", "dtln_dns", "timbre_48k"])
def test_limit_comes_last(name):
    cfg = composed(f"experiment={name}", "debug=limit")
    assert (cfg.trainer.max_epochs, cfg.data.batch_size, cfg.metrics.test_files) == (1, 2, 4)
