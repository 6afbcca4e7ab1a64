"""What a shell completes of the command."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gtcrn.export.formats import FORMATS
from gtcrn.tasks.completion import WORDS, suggestions


def test_the_words_of_an_export():
    assert WORDS["format"] == tuple(FORMATS)
    assert set(WORDS["quantize"]) == {word for one in FORMATS.values() for word in one.quantize}


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("task=export format=onnx", ["format=onnx", "format=onnx_wave"]),
        ("task=export quantize=int1", ["quantize=int16x8"]),
        ("task=evaluate split=", ["split=test", "split=validation"]),
        ("task=enhance level=as", ["level=as_is"]),
        ("padding=re", ["padding=reflect"]),
        ("init_from=be", ["init_from=best.ckpt"]),
        ("task=enhance ckpt=o", ["ckpt=outputs/"]),
        ("task=enhance ckpt=light", ["ckpt=light-v3-real", "ckpt=light-v3-vctk"]),
        ("task=enhance ckpt=outputs/", ["ckpt=outputs/last.ckpt"]),
        ("data.root=o", ["data.root=outputs/"]),
        ("seed=", []),
        ("model=", []),
        ("task=export fo", []),
        ("", []),
    ],
)
def test_suggestions(tmp_path, monkeypatch, typed, completed):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "outputs").mkdir()
    for name in ("best.ckpt", "with space.ckpt", "outputs/last.ckpt"):
        (tmp_path / name).touch()
    assert suggestions(f"gtcrn {typed}") == completed


@pytest.mark.skipif(not shutil.which("bash"), reason="bash is not installed")
@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("task=export format=onnx_", "format=onnx_wave"),
        ("model=light", "model=light_v3"),
        ("ckpt=be", "ckpt=best.ckpt"),
    ],
)
def test_in_bash(tmp_path, typed, completed):
    """As an installed command, whose words a shell takes apart."""
    command = tmp_path / "bin" / "gtcrn"
    command.parent.mkdir()
    command.write_text(f"#!{sys.executable}\nfrom gtcrn.__main__ import main\nmain()\n")
    command.chmod(0o755)
    (tmp_path / "best.ckpt").touch()
    script = (
        f"PATH={command.parent}:$PATH; export PYTHONPATH={Path(__file__).parents[2]}\n"
        'eval "$(gtcrn -sc install=bash)"\n'
        f"COMP_LINE='gtcrn {typed}' COMP_WORDS=(gtcrn {typed})\n"
        "COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); hydra_bash_completion; printf '%s\\n' \"${COMPREPLY[@]}\"\n"
    )
    result = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert result.stdout.split() == [completed], result.stderr
