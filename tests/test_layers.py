"""The house: imports point only downwards, and siblings of the library's floor never see one another."""

import ast
from collections import defaultdict
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "gtcrn"
FLOORS = {
    "errors": 0,
    "fetching": 0,
    "files": 0,
    "flac": 0,
    "workers": 0,
    "revision": 0,
    "signals": 0,
    "dsp": 1,
    "weights": 1,
    "kernels": 1,
    "streaming": 1,
    "models": 2,
    "losses": 2,
    "metrics": 2,
    "data": 2,
    "plots": 3,
    "runtime": 3,
    "quantization": 3,
    "export": 4,
    "web": 4,
    "training": 4,
    "profiling": 5,
    "reports": 6,
    "tasks": 7,
}
ALONE = ("models", "losses", "metrics", "data")
FILES = [path for path in PACKAGE.rglob("*.py") if path not in (PACKAGE / "__init__.py", PACKAGE / "__main__.py")]


def imports(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def room_of(path: Path) -> str:
    """Return the folder of the package that a file is in, or its own name if it is beside them."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def rooms_seen_by(path: Path) -> set[str]:
    """Return the other rooms of the house that a file imports from."""
    return {name.split(".")[1] for name in imports(path) if name.startswith("gtcrn.")} - {room_of(path)}


def test_rooms_form_no_cycle():
    seen = defaultdict(set)
    for path in FILES:
        seen[room_of(path)] |= rooms_seen_by(path)
    TopologicalSorter(seen).prepare()  # raises CycleError, which names the rooms


def test_no_room_is_a_quarter_of_the_house():
    lines = defaultdict(int)
    for path in PACKAGE.rglob("*.py"):
        lines[room_of(path)] += len(path.read_text().splitlines())
    assert max(lines.values()) <= 0.25 * sum(lines.values())


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_downwards(path):
    room = room_of(path)
    found, rooms = imports(path), rooms_seen_by(path)
    assert all(FLOORS[other] <= FLOORS[room] for other in rooms)
    if room in ALONE:
        assert not rooms & set(ALONE)
    tops = {name.split(".")[0] for name in found}
    if FLOORS[room] <= 2:
        assert not tops & {"pytorch_lightning", "lightning"}
    if room != "tasks":
        assert not tops & {"hydra", "omegaconf"}
