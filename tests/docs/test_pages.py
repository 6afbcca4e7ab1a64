"""README and the pages beside it are short, with links and pictures that are there."""

import re
import runpy

import pytest
import yaml
from fixtures.pages import ROOT

FRONT = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "experiments/README.md", "notebooks/README.md"]
LARGEST_PICTURE = 200_000  # bytes


def test_readme_is_read_in_three_minutes():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 130


@pytest.mark.parametrize("page", FRONT)
def test_links_lead_somewhere(page):
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)", (ROOT / page).read_text())
    missing = [target for target in targets if ":" not in target and not ((ROOT / page).parent / target).exists()]
    assert not missing


def test_pictures_are_small():
    pictures = [path for path in (ROOT / "docs/images").iterdir() if path.suffix in {".png", ".svg"}]
    assert pictures and all(path.stat().st_size < LARGEST_PICTURE for path in pictures)


def test_diagrams_are_those_of_their_script():
    for name, draw in runpy.run_path(str(ROOT / "docs/images/draw.py"))["PICTURES"].items():
        assert (ROOT / f"docs/images/{name}.svg").read_text() == draw(), "run python docs/images/draw.py"


def test_workflow_runs_what_ci_runs():
    (job,) = yaml.safe_load((ROOT / ".github/workflows/checks.yml").read_text())["jobs"].values()
    assert [step["run"] for step in job["steps"] if "run" in step] == [".ci/run"]
    assert (ROOT / ".ci/run").stat().st_mode & 0o100
    for form in (ROOT / ".github/ISSUE_TEMPLATE").iterdir():
        yaml.safe_load(form.read_text())
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["cff-version"] == "1.2.0"
