"""What pip is told: the releases of constraints.txt are such as the project asks for, and what a wheel carries."""

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

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


def test_a_mac_is_not_asked_for_tflite_micro():  # which has no packages for it, so that `make run` would end there
    (needed,) = [line for line in map(Requirement, REQUIRED["device"]) if line.name == "tflite-micro"]
    assert not needed.marker.evaluate({"sys_platform": "darwin", "platform_machine": "arm64"})
    assert needed.marker.evaluate({"sys_platform": "linux", "platform_machine": "x86_64"})


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Return a folder with what a wheel of this checkout installs."""
    source, built, installed = map(tmp_path_factory.mktemp, ("source", "built", "installed"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("gtcrn", "conf"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(built)]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, str(source)], check=True, timeout=300)
    (wheel,) = built.iterdir()
    zipfile.ZipFile(wheel).extractall(installed)
    return installed


def files_of(folder: Path) -> set[str]:
    files = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {path.as_posix() for path in files if "__pycache__" not in path.parts}


@pytest.mark.slow
def test_a_wheel_carries_every_file_of_the_package_and_the_configurations(installed):
    configurations = {f"conf/{name}" for name in files_of(ROOT / "conf")}
    assert files_of(installed / "gtcrn") == files_of(ROOT / "gtcrn") | configurations
    assert {path.suffix for path in installed.iterdir()} == {"", ".dist-info"}  # nothing else beside the package


@pytest.mark.slow
def test_the_command_of_a_wheel_runs_from_any_folder(installed, tmp_path):
    (entry_points,) = installed.glob("*.dist-info/entry_points.txt")
    assert "gtcrn = gtcrn.__main__:main" in entry_points.read_text()
    mine = tmp_path / "mine" / "model"
    mine.mkdir(parents=True)
    (mine / "wide.yaml").write_text("defaults: [light_v3]\nwidth_mult: 1.5\n")
    result = subprocess.run(
        [sys.executable, "-m", "gtcrn", "--config-dir", "mine", "model=wide", "--cfg", "job", "--package", "model"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    assert "_target_: gtcrn.models.light_v3.build" in result.stdout and "width_mult: 1.5" in result.stdout
