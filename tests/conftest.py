"""Settings and fixtures that all tests share, such as the folders of reference material and small recordings."""

import gc
import os
from pathlib import Path

import pytest
import torch
from fixtures.commands import command, perform  # noqa: F401  fixtures of all tests
from fixtures.extensions import own_folder, registries  # noqa: F401
from fixtures.systems import exported, noisy, system  # noqa: F401
from fixtures.weights import register  # noqa: F401
from hypothesis import HealthCheck, settings

# with matrices this small, two threads wait for each other many times longer than one works
torch.set_num_threads(1)

# the same examples in every run and on every machine, however slow it is, and none kept on disk
settings.register_profile("gtcrn", derandomize=True, deadline=None, database=None, suppress_health_check=HealthCheck)
settings.load_profile("gtcrn")


def pytest_collection_finish() -> None:
    """Leave what was imported, and the list of tests, out of every later search for garbage."""
    gc.freeze()


def _folder_from(variable: str, what: str) -> Path:
    value = os.environ.get(variable)
    if not value:
        pytest.skip(f"{variable} is not set: it names the folder of {what}")
    folder = Path(value).resolve()  # browsers refuse a path with `..`
    if not folder.is_dir():
        pytest.skip(f"{variable}={value} is not a folder; it should hold {what}")
    return folder


@pytest.fixture(scope="session")
def references() -> Path:
    """Return the folder of published checkpoints and the outputs of their authors' code."""
    return _folder_from("GTCRN_REFERENCES", "published checkpoints and golden outputs")


@pytest.fixture(scope="session")
def recordings() -> Path:
    """Return the folder of small real recordings."""
    return _folder_from("GTCRN_DATA", "small real recordings")
