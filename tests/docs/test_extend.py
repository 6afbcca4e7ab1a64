"""The worked examples of docs/extend are short, and the commands on their pages run in a folder of a stranger's."""

import re
import shlex
import sys

import numpy as np
import pandas as pd
import pytest
import soundfile
from fixtures.commands import run_command
from fixtures.pages import ROOT, blocks, joined_lines

PAGES = ROOT / "docs" / "extend"
LONGEST = 40  # lines of code of an example
FILE = re.compile(r'^```(?:python|yaml) title="([^"]+)"\n(.*?)^```$', re.DOTALL | re.MULTILINE)
SMALL = "data.train_files=4 data.validation_files=1 data.test_files=1 data.batch_size=2".split()
SHORT = "logger=csv metrics.workers=1 callbacks=none data.num_workers=0 data.segment_seconds=1".split()
TESTED = ["metrics.test=[si_sdr]", "metrics.workers=1"]  # the other metrics take seconds
QUICK = ["metrics.validation=[si_sdr]", "metrics.test=[si_sdr]", "monitor=val/si_sdr"]


@pytest.fixture
def example(own_folder):
    """Return a function that writes the files of a page into an empty folder, and returns its commands as words."""

    def write(name: str) -> list[list[str]]:
        page = PAGES / f"{name}.md"
        files = FILE.findall(page.read_text())
        assert sum(len(code.splitlines()) for _, code in files) <= LONGEST
        for file, code in files:
            (own_folder / file).parent.mkdir(parents=True, exist_ok=True)
            (own_folder / file).write_text(code)
        (block,) = blocks(page, "bash")
        return [shlex.split(line.removeprefix("gtcrn ")) for line in joined_lines(block)]

    return write


@pytest.fixture
def run(perform, tmp_path):
    """Return a function that runs a command of a page, and further overrides, in this process."""

    def run_words(words: list[str], *more: str) -> None:
        searched = f"hydra.searchpath=['file://{tmp_path}/conf']"  # as --config-dir conf
        words = [searched, *words[2:]] if words[0] == "--config-dir" else words
        perform(*words, *more)

    return run_words


def test_every_page_says_at_its_top_what_one_gets():
    pages = sorted(PAGES.glob("*.md"))
    assert [page.stem for page in pages] == ["corpus", "export_format", "loss", "metric", "model"]
    for page in pages:
        title, _, first, *_ = page.read_text().splitlines()
        assert title.startswith("# Add a") and first.startswith("At the end you have ")


@pytest.mark.slow
def test_model(example, run, tmp_path):
    train, evaluate, export, enhance = example("model")
    run(train, *SMALL, *SHORT, *QUICK)
    run(evaluate, *SMALL, *TESTED)
    run(export)  # which compares the file with the model, frame by frame
    run(enhance)
    scores = [pd.read_csv(tmp_path / folder / "scores.csv")["enhanced_si_sdr"] for folder in ("first/test", "scores")]
    assert scores[0].equals(scores[1])
    (noisy,), (enhanced,) = ([*(tmp_path / folder).iterdir()] for folder in ("first/test/noisy", "enhanced"))
    assert soundfile.info(noisy).frames == soundfile.info(enhanced).frames


@pytest.mark.slow
def test_loss(example, run, tmp_path):
    (train,) = example("loss")
    run(train, *SMALL, *SHORT, *QUICK, "evaluate=false")
    logged = pd.read_csv(tmp_path / "first/metrics.csv")
    assert logged["val/envelope"].dropna().gt(0).all()


@pytest.mark.slow
def test_corpus(example, run, tmp_path):
    inspect, train = example("corpus")
    rng = np.random.default_rng(0)
    for speaker in ("anna", "ben"):
        (tmp_path / "sessions" / speaker).mkdir(parents=True)
        clean = rng.normal(0, 0.1, 32000) * np.repeat(rng.uniform(0.1, 1, 20), 1600)
        for name, wave in (("clean", clean), ("noisy", clean + rng.normal(0, 0.05, 32000))):
            soundfile.write(tmp_path / "sessions" / speaker / f"1_{name}.wav", wave, 16000)
    cache = f"data.cache_dir='{tmp_path / 'cache'}'"
    run(inspect, cache)
    run(train, cache, *SHORT, *QUICK)
    assert list(pd.read_csv(tmp_path / "first/test/scores.csv")["name"]) == ["ben_1_noisy"]
    assert "anna" in next((tmp_path / "items").glob("*.csv")).read_text()


@pytest.mark.slow
def test_metric(example, run, tmp_path):
    train, evaluate = example("metric")
    run(train, *SMALL, *SHORT)
    result = run_command(tmp_path, *evaluate)  # as it is typed
    assert result.returncode == 0, result.stderr
    files = [tmp_path / "first/test/scores.csv", tmp_path / "scores/scores.csv"]
    scores = [pd.read_csv(file)["enhanced_level_error"] for file in files]
    assert np.allclose(*scores, atol=1e-3) and (scores[0] > 0).all()
    assert "level error dB" in result.stdout


@pytest.mark.slow
def test_export_format(example, run, tmp_path):
    train, export = example("export_format")
    run(train, *SMALL, *SHORT, *QUICK, "evaluate=false")
    run(export)
    assert "from my_format import Script" in (tmp_path / "device/light_v3.ts.MODEL_CARD.md").read_text()
    noisy = np.random.default_rng(0).normal(0, 0.1, 16000).astype(np.float32)
    stream = sys.modules["my_format"].Script(tmp_path / "device/light_v3.ts")
    assert np.abs(stream.process(noisy)).max() > 0
