"""Python in README and in the documentation runs as it stands, with arrays and files of the names that it uses."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from fixtures.pages import ROOT, blocks


@pytest.fixture
def names(tmp_path, monkeypatch, references, exported) -> dict:
    """Return the variables that the pages use, in a folder with the files that they name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GTCRN_WEIGHTS", str(references))
    (tmp_path / "exported").mkdir()
    for name, format in (
        ("gtcrn.onnx", "onnx"),
        ("gtcrn_wave.onnx", "onnx_wave"),
        ("exported/mine_wave.onnx", "onnx_wave"),
    ):
        shutil.copy(exported("light_v3", format), name)
    noise = np.random.default_rng(0).normal(0, 0.1, (2, 8000)).astype(np.float32)
    soundfile.write("noisy.wav", noise[0], 16000)
    wave, chunk, spec = torch.from_numpy(noise), torch.zeros(2, 512), torch.zeros(2, 2, 3, 257)
    waves = {"wave": wave, "noisy": wave, "clean": wave, "chunk": chunk, "spec": spec, "batch_size": 2}
    return waves | dict.fromkeys(("samples", "block", "clean_samples", "enhanced_samples"), noise[0])


@pytest.mark.parametrize("page", ["README.md", "docs/library.md", "docs/streaming.md", "docs/deployment.md"])
def test_python_runs(page, names):
    if page == "docs/streaming.md":  # goes on from the library's page
        names |= run(ROOT / "docs/library.md", names)
    assert "denoiser" in run(ROOT / page, names)


def test_python_of_the_tutorial(names):
    names = run(ROOT / "docs/tutorial.md", names)
    assert len(names["enhanced"]) == len(names["samples"])


def run(page: Path, names: dict) -> dict:
    """Run the blocks of a page in their order and return all names that they leave."""
    names = dict(names)
    for block in blocks(page, "python"):
        exec(compile(block, str(page), "exec"), names)
    return names
