"""What pip is told: the releases of constraints.txt are such as the project asks for."""

from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

tomllib = pytest.importorskip("tomllib", reason="Python 3.10 has no tomllib")

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
REQUIRED = {"install": PROJECT["dependencies"]} | PROJECT["optional-dependencies"]


@pytest.fixture(scope="module")
def pinned() -> dict[str, str]:
    """{package: its release}"""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    return {canonicalize_name(name): release for name, release in pins.items()}


@pytest.mark.parametrize("extra", REQUIRED)
def test_constraints_admit(extra, pinned):
    requirements = [Requirement(line) for line in REQUIRED[extra]]
    refused = [
        f"{requirement} is pinned at {pinned[name]}"
        for requirement in requirements
        if (name := canonicalize_name(requirement.name)) in pinned
        and not requirement.specifier.contains(pinned[name], prereleases=True)
    ]
    assert not refused
