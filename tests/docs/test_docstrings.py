"""Parameters that docstrings name in running text are lists in the reference."""

from pathlib import Path

import pytest

griffe = pytest.importorskip("griffe", reason="comes with mkdocstrings, the extra docs")

EXTENSION = Path(__file__).parents[2] / "docs/docstrings.py"
SOURCE = '''
def scale(rate, held_back):
    """Return what is known so far. rate: Hz. held_back: seconds of input
    that it needs.

    rate: may also be None.
    """
'''


def test_a_list_begins_after_an_empty_line(tmp_path):  # within a paragraph it is none in Markdown
    (tmp_path / "scaling.py").write_text(SOURCE)
    extensions = griffe.load_extensions(f"{EXTENSION}:ParameterLists")
    module = griffe.load("scaling", search_paths=[tmp_path], extensions=extensions)
    lines = module["scale"].docstring.value.splitlines()
    items = [number for number, line in enumerate(lines) if line.startswith("- **")]
    assert len(items) == 3
    assert not lines[items[0] - 1] and not lines[items[2] - 1], lines
