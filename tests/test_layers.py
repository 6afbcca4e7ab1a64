"""The house: imports point only downwards, and siblings of the library's floor never see one another."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "gtcrn"
FLOORS = {
    "errors": 0,
    "files": 0,
    "workers": 0,
    "dsp": 1,
    "streaming": 1,
    "models": 2,
    "losses": 2,
    "metrics": 2,
    "data": 2,
    "export": 3,
    "analysis": 3,
    "training": 4,
    "tasks": 5,
}
ALONE = ("models", "losses", "metrics", "data")
FILES = [path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE]


def imports(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_downwards(path):
    room = path.relative_to(PACKAGE).parts[0]
    found = imports(path)
    rooms = {name.split(".")[1] for name in found if name.startswith("gtcrn.")} - {room}
    assert all(FLOORS[other] <= FLOORS[room] for other in rooms)
    if room in ALONE:
        assert not rooms & set(ALONE)
    tops = {name.split(".")[0] for name in found}
    if FLOORS[room] <= 2:
        assert not tops & {"pytorch_lightning", "lightning"}
    if room != "tasks":
        assert not tops & {"hydra", "omegaconf"}
