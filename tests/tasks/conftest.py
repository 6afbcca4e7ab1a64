"""Tasks as the command runs them, but in this process."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, open_dict, read_write

from gtcrn import tasks

CONF = Path(__file__).parents[2] / "conf"


@pytest.fixture
def command(tmp_path):
    """A function that composes a configuration as a process with these overrides has it; it writes to `out`."""

    def compose_all(*overrides: str) -> DictConfig:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            cfg = compose("config", [f"run_dir={tmp_path / 'out'}", *overrides], return_hydra_config=True)
        HydraConfig.instance().set_config(cfg)
        with read_write(cfg), open_dict(cfg):
            del cfg["hydra"]
        return cfg

    yield compose_all
    HydraConfig.instance().cfg = None


@pytest.fixture
def perform(command):
    """A function that runs the task of these overrides, and lets its errors through."""

    def run(*overrides: str) -> DictConfig:
        cfg = command(*overrides)
        with initialize_config_dir(str(CONF), version_base="1.3"):
            tasks.perform(cfg)
        return cfg

    return run
