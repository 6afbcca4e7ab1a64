"""The registry states the truth about the files that are at hand, and nothing that could change."""

import hashlib
import re
from pathlib import Path
from urllib.parse import urljoin

import pytest
import yaml

from gtcrn.models.pretrained import open_checkpoint
from gtcrn.weights import entries, held, known

CONF = Path(__file__).parents[2] / "conf"
FILES = {
    "gtcrn-dns3": "gtcrn/dns3_epoch87.tar",
    "gtcrn-dns3-epoch96": "gtcrn/dns3_epoch96.tar",
    "gtcrn-vctk": "gtcrn/model_trained_on_vctk.tar",
    "light-v3-vctk": "light_v3/best_model_078.tar",
    "micro-dns3": "micro/best_model_dns3.tar",
    "dtln": "dtln/model.h5",
    "dtln-pytorch": "dtln/model.pth",
    "dtln-norm-40h": "dtln/DTLN_norm_40h.h5",
    "ulunas-dns3": "ulunas/model_trained_on_dns3.tar",
}
# {beginning of a row of the references' table of addresses: names}
ROWS = {
    "GTCRN DNS3 epoch 87": ["gtcrn-dns3"],
    "GTCRN VCTK": ["gtcrn-vctk"],
    "GTCRN DNS3 epoch 96": ["gtcrn-dns3-epoch96"],
    "Light v3": ["light-v3-vctk"],
    "Micro DNS3": ["micro-dns3"],
    "DTLN": ["dtln"],
    "DTLN-norm 40 h, 500 h": ["dtln-norm-40h", "dtln-norm-500h"],
    "UL-UNAS DNS3": ["ulunas-dns3"],
}


@pytest.mark.parametrize("name", FILES)
def test_sizes_and_checksums_are_those_of_the_files(references, name):
    content, entry = (references / FILES[name]).read_bytes(), entries()[name]
    assert (entry.bytes, entry.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    assert known(entry.sha256) == entry


def test_addresses_are_those_of_the_references(references):
    text = (references / "README.md").read_text()
    repository = commit = ""
    found = {}
    for line in text[text.index("## Where the published files stand") :].splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if cells[0] in ROWS:
            repository = repository if cells[1] == "the same" else cells[1]
            commit = cells[2] or commit
            address = f"https://github.com/{repository}/raw/{commit}/"
            for name, path, digest in zip(ROWS[cells[0]], cells[3].split(", "), cells[4].split(", ")):
                address = urljoin(address, path)  # a second one is beside the first
                found[name] = (address, digest)
    known_to_us = entries()
    assert found == {name: (known_to_us[name].url, known_to_us[name].sha256[:8]) for name in sum(ROWS.values(), [])}
    assert f"{known_to_us['dtln-norm-500h'].sha256} (4,003,624 bytes)" in text


@pytest.mark.parametrize("entry", entries().values(), ids=lambda entry: entry.name)
def test_addresses_cannot_come_to_hold_something_else(entry):
    assert re.fullmatch("[a-z0-9-]+", entry.name)
    assert entry.url is None or re.search(r"/raw/[0-9a-f]{40}/|/releases/download/[^/]+-v[0-9.]+", entry.url)
    assert entry.sha256 is None or re.fullmatch("[0-9a-f]{64}", entry.sha256)
    assert entry.licence and entry.origin and entry.padding in ("reflect", "none", "zeros", None)
    assert not entry.measured or entry.padding  # scores depend on it


@pytest.mark.parametrize("name", FILES)
def test_the_system_is_the_one_in_the_file(references, name):
    assert open_checkpoint(references / FILES[name]).system == entries()[name].system


@pytest.mark.parametrize(
    ("task", "key"), [("enhance", "ckpt"), ("export", "ckpt"), ("live", "ckpt"), ("serve", "models")]
)
def test_weights_that_stand_where_none_are_named_are_in_the_package(task, key):
    name = yaml.safe_load((CONF / "task" / f"{task}.yaml").read_text())[key]
    assert held(entries()[name]) == entries()[name].packaged
