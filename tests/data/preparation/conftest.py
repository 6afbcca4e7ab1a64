"""A small corpus of real speech in folders, and a job over it."""

import hashlib
from pathlib import Path

import pytest
import soundfile

from gtcrn.data.manifest import open_manifest, usable
from gtcrn.data.preparation.jobs import run_job
from gtcrn.data.preparation.output import OutputFolder

NAMES = ["b.wav", "reader one/p1_01.wav", "reader one/p1_02.wav", "reader one/nested/p1_03.wav", "Ünï/p2_01.flac"]


@pytest.fixture
def corpus(recordings, tmp_path):
    """Write five files of 1.5 s at 22.05 kHz, at several depths, and return their folder."""
    sources = sorted((recordings / "dns_mini" / "extra_clean").glob("*.wav"))
    for name, source in zip(NAMES, sources):
        file = tmp_path / "corpus" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(file, soundfile.read(source, frames=33075, dtype="int16")[0], 22050)
    return tmp_path / "corpus"


@pytest.fixture
def prepare(tmp_path):
    """Return prepare(step, input, output, again=..., shard=(0, 1), speaker=None) -> Outcome, which runs in-process."""

    def carried_out(step, source, output, again=False, shard=(0, 1), speaker=None):
        good, bad = usable(open_manifest(source, "input", tmp_path / "cache", speaker), 0)
        output = OutputFolder(Path(output), *shard)
        with output.locked():
            output.check_settings({"step": type(step).__name__})
            return run_job(step, step.work_items(good), output, bad, workers=1, again=again)

    return carried_out


@pytest.fixture
def contents():
    """Return contents(folder) -> {relative path: SHA-256} of all files, hidden ones too."""

    def read(folder):
        files = (path for path in sorted(Path(folder).rglob("*")) if path.is_file())
        return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

    return read
