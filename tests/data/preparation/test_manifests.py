import os

import numpy as np
import pytest
import soundfile

from gtcrn.data.manifest import open_manifest
from gtcrn.data.preparation.files import sha256
from gtcrn.data.preparation.manifests import make_manifest
from gtcrn.errors import UserError


def test_a_folder_is_searched_anew(corpus, tmp_path):
    file = corpus / "manifest.arrow"
    make_manifest(open_manifest(corpus, "input", tmp_path / "cache"), file, False, None)
    assert len(open_manifest(corpus, "input", None)) == 5
    soundfile.write(corpus / "new.wav", np.full(22050, 0.5), 22050)
    (corpus / "bad.wav").write_text("no audio")
    (corpus / ".0123456789ab.partial").write_text("of a run that was killed")
    make_manifest(open_manifest(corpus, "input", tmp_path / "cache", anew=True), file, True, tmp_path / "cache")
    files = open_manifest(corpus, "input", None)
    assert len(files) == 7 and not list(corpus.glob(".*"))
    assert {file.path.name for file in files if file.problem} == {"bad.wav"}
    assert (corpus / "failures.csv").read_text().startswith(f"path,problem\n{corpus / 'bad.wav'},not readable")
    for path, checksum in zip(files.column("path"), files.column("sha256")):
        assert sha256(corpus / path) == checksum
    (corpus / "bad.wav").unlink()
    make_manifest(open_manifest(corpus, "input", tmp_path / "cache", anew=True), file, False, None)
    assert not (corpus / "failures.csv").exists()


@pytest.mark.parametrize("suffix", ["arrow", "parquet"])
def test_elsewhere_it_knows_its_root_and_inside_it_moves_along(corpus, tmp_path, suffix):
    known = open_manifest(corpus, "input", tmp_path / "cache")
    make_manifest(known, tmp_path / "elsewhere" / f"all.{suffix}", False, None)
    assert list(open_manifest(tmp_path / "elsewhere" / f"all.{suffix}", "input", None)) == list(known)
    make_manifest(known, corpus / f"inside.{suffix}", False, None)
    os.rename(corpus, tmp_path / "moved")
    moved = open_manifest(tmp_path / "moved" / f"inside.{suffix}", "input", None)
    assert [file.path for file in moved] == [tmp_path / "moved" / file.path.relative_to(corpus) for file in known]


def test_a_file_of_another_kind_is_refused(corpus, tmp_path):
    with pytest.raises(UserError, match="out.csv: a manifest is a file"):
        make_manifest(open_manifest(corpus, "input", tmp_path / "cache"), tmp_path / "out.csv", False, None)
