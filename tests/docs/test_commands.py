"""Commands in README and in the documentation compose and pass the check, and those of the tutorial run."""

import re
import shlex
import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import soundfile
from fixtures.pages import ROOT, blocks, joined_lines
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override

from gtcrn.tasks.checking import check

DOCS = sorted(set((ROOT / "docs").rglob("*.md")) - set((ROOT / "docs/extend").iterdir()))  # which test_extend.py runs
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCS]
COMMANDS = re.compile(r"python run\.py |gtcrn ")
SMALL_DEMO = "data.train_files=8 data.validation_files=2 data.test_files=2 data.batch_size=2".split()
SMALL_OWN = "data.segment_seconds=1 data.batch_size=2 data.num_workers=0".split()
SCORES = "metrics.test=[stoi] metrics.workers=1".split()
SHORT = [
    "trainer.max_epochs=1",
    "callbacks.clips.count=1",
    "logger=csv",
    "metrics.validation=[stoi]",
    "monitor=val/stoi",
    *SCORES,
]


class Command(NamedTuple):
    """A command in a page. options: words that begin with a dash; overrides: the others after the program's name."""

    page: str
    options: list[str]
    overrides: list[str]

    def __str__(self) -> str:
        return f"{self.page}: {shlex.join(self.options + self.overrides)}"


def commands(page: Path) -> list[Command]:
    """Return the commands in the bash blocks of a page, in their order."""
    found = []
    for block in blocks(page, "bash"):
        for line in joined_lines(block):
            if match := COMMANDS.match(line):
                words = shlex.split(line[match.end() :], comments=True)
                options = [word for word in words if word.startswith("-")]
                overrides = [word for word in words if not word.startswith("-")]
                found.append(Command(str(page.relative_to(ROOT)), options, overrides))
    return found


ALL = [command for page in PAGES for command in commands(page)]
UNLIKE = {(*command.options, *command.overrides): command for command in ALL}.values()  # one of those that are alike


def values(override: Override) -> list[str]:
    """Return an override with the first and the last value of its sweep, or as it is."""
    if not override.is_sweep_override():
        return [override.input_line]
    swept = override.value()
    if isinstance(swept, IntervalSweep):
        return [f"{override.get_key_element()}={end}" for end in (swept.start, swept.end)]
    first, *_, last = override.sweep_string_iterator()
    return [f"{override.get_key_element()}={value}" for value in (first, last)]


def test_commands_are_found():
    pages = {command.page for command in ALL}
    assert {"README.md", "docs/tutorial.md", "docs/systems/gtcrn.md"} <= pages
    readme = [shlex.join(command.options + command.overrides) for command in ALL if command.page == "README.md"]
    assert "model=light_v3 loss=sisdr_mag" in readme
    assert "-m model=light_v3 model.width_mult=0.5,0.75,1 model.r=8,12,16" in readme


@pytest.mark.parametrize("written", UNLIKE, ids=str)
def test_command_composes(command, written):
    swept = [values(override) for override in OverridesParser.create().parse_overrides(written.overrides)]
    assert "-m" in written.options or all(len(choices) == 1 for choices in swept)
    for number in range(max(map(len, swept), default=1)):
        check(command(*(choices[min(number, len(choices) - 1)] for choices in swept)))


def lay_out_own_data(folder: Path) -> None:
    """Make the folders that the tutorial takes for a user's own data from the test files of its first run."""
    for name in ("my_corpus/noisy", "my_corpus/clean", "my_speech", "my_noise"):
        (folder / name).mkdir(parents=True)
    files = sorted((folder / "first_run/test/clean").iterdir())
    for number, speaker in enumerate(("anna", "ben", "carl")):
        clean = files[number % len(files)]
        noisy = folder / "first_run/test/noisy" / clean.name
        shutil.copy(noisy, folder / f"my_corpus/noisy/{speaker}_1.wav")
        shutil.copy(clean, folder / f"my_corpus/clean/{speaker}_1.wav")
        speech, rate = soundfile.read(clean)
        soundfile.write(folder / f"my_speech/{speaker}_1.wav", speech, rate)
        noise = np.random.default_rng(number).normal(0, 0.02, len(speech))
        soundfile.write(folder / f"my_noise/{speaker}.wav", noise, rate)


@pytest.mark.slow
def test_tutorial_runs(tmp_path, monkeypatch, perform):
    """Run the commands in their order in one folder, but for a sweep, the largest table and the page for a browser."""
    monkeypatch.chdir(tmp_path)
    for written in commands(ROOT / "docs/tutorial.md"):
        overrides = written.overrides
        if "-m" in written.options or {"task=serve", "model=all"} & set(overrides):
            continue
        if not any(word.startswith("task=") for word in overrides):
            overrides = overrides + SHORT + (SMALL_OWN if "data.root=my_corpus" in overrides else SMALL_DEMO)
        elif "task=evaluate" in overrides:
            overrides = overrides + SCORES + (SMALL_DEMO if "data=demo" in overrides else [])
        perform(*overrides)
        if "run_dir=first_run" in overrides:
            lay_out_own_data(tmp_path)
    enhanced = sorted(file.name for file in (tmp_path / "from_onnx").iterdir())
    assert enhanced == sorted(file.name for file in (tmp_path / "first_run/test/noisy").iterdir())
