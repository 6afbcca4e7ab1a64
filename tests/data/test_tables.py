"""A table that is read from the cache is the one that was written; a damaged one is made anew."""

import multiprocessing
import random
from functools import partial

import numpy as np
import pyarrow as pa
import pytest
import soundfile

from gtcrn.data import scan
from gtcrn.data.manifest import open_manifest
from gtcrn.data.tables import MappedTable, read_cache, write_by_content, write_cache, write_table
from gtcrn.errors import UserError

TABLE = pa.table({"name": [f"file_{i}.wav" for i in range(40)], "frames": list(range(1000, 1040))})


@pytest.fixture
def corpus(tmp_path):
    """Write twelve files of different lengths, and two lists that name most of them in different order."""
    rng = np.random.default_rng(0)
    names = [f"{i:02d}.wav" for i in range(12)]
    for number, name in enumerate(names):
        soundfile.write(tmp_path / name, rng.normal(0, 0.1, 800 + number), 16000)
    (tmp_path / "one.txt").write_text("\n".join(names[:9]))
    (tmp_path / "other.txt").write_text("\n".join(names[:2:-1]))
    return tmp_path


def lengths(corpus, listed: str) -> dict[str, int]:
    files = open_manifest(corpus / listed, "data.speech", corpus / "cache")
    return {file.path.name: file.frames for file in files}


def right(corpus, listed: str) -> dict[str, int]:
    return {name: 800 + int(name[:2]) for name in (corpus / listed).read_text().split()}


def damaged(content: bytes, seed: int) -> bytes:
    """Return the content with flipped bits, foreign bytes, its end missing, or zeros in it, as `seed` says."""
    dice, changed = random.Random(seed), bytearray(content)
    at = dice.randrange(len(changed))
    if seed % 4 == 0:
        changed[at] ^= 1 << dice.randrange(8)
    elif seed % 4 == 1:
        changed[at : at + 16] = dice.randbytes(16)
    elif seed % 4 == 2:
        del changed[at:]
    else:
        changed[at : at + 500] = bytes(len(changed[at : at + 500]))
    return bytes(changed)


def test_a_damaged_cache_is_made_anew(corpus):
    expected = right(corpus, "one.txt")
    assert lengths(corpus, "one.txt") == expected
    for seed in range(40):
        for file in (corpus / "cache/manifests").iterdir():
            file.write_bytes(damaged(file.read_bytes(), seed))
        assert lengths(corpus, "one.txt") == expected


def test_the_cache_gives_what_was_written_or_nothing(tmp_path):
    file = tmp_path / "some.seen"
    assert read_cache(file, TABLE.schema).num_rows == 0
    write_cache(TABLE, file)
    content = file.read_bytes()
    for seed in range(200):
        file.write_bytes(damaged(content, seed))
        found = read_cache(file, TABLE.schema)
        assert found.equals(TABLE) if file.read_bytes() == content else found.num_rows == 0
    write_cache(TABLE.rename_columns(["path", "frames"]), file)
    assert read_cache(file, TABLE.schema).num_rows == 0


def test_another_scan_in_between_changes_nothing(corpus, monkeypatch):
    """Two runs begin at once: the other one found no cache either, and writes its own right after this one."""
    own = scan.write_cache

    def and_then_another(table, file):
        own(table, file)
        monkeypatch.setattr(scan, "write_cache", own)
        file.unlink()
        assert lengths(corpus, "other.txt") == right(corpus, "other.txt")

    monkeypatch.setattr(scan, "write_cache", and_then_another)
    assert lengths(corpus, "one.txt") == right(corpus, "one.txt")


def test_two_cold_scans_at_once(corpus):
    """Two processes scan the same files, each in its own order, and both get the right lengths."""
    with multiprocessing.get_context("fork").Pool(2) as pool:
        for _ in range(10):
            found = pool.map(partial(lengths, corpus), ["one.txt", "other.txt"], chunksize=1)
            assert found == [right(corpus, "one.txt"), right(corpus, "other.txt")]
            for file in (corpus / "cache/manifests").iterdir():
                file.unlink()


def test_a_table_is_named_by_its_content(tmp_path):
    file = write_by_content(TABLE, tmp_path)
    assert write_by_content(TABLE, tmp_path) == file != write_by_content(TABLE.slice(1), tmp_path)
    content = file.read_bytes()
    file.write_bytes(damaged(content, 1))
    assert write_by_content(TABLE, tmp_path) == file and file.read_bytes() == content


def test_a_damaged_table_from_elsewhere_is_read_safely_or_refused(tmp_path):
    """It has no checksum: what is accepted can be read to the end, and an offset that leads out of it does no harm."""
    write_table(TABLE, tmp_path / "own.arrow")
    content, refused = (tmp_path / "own.arrow").read_bytes(), 0
    for seed in range(200):
        (tmp_path / "some.arrow").write_bytes(damaged(content, seed))
        try:
            MappedTable(tmp_path / "some.arrow").table.to_pylist()
        except UserError as error:
            assert "some.arrow: not readable as a table" in str(error)
            refused += 1
    assert refused > 100


def test_a_table_of_several_batches_is_read_as_one(tmp_path):
    with pa.ipc.new_file(str(tmp_path / "some.arrow"), TABLE.schema) as writer:
        writer.write_table(TABLE, max_chunksize=7)
    rows = MappedTable(tmp_path / "some.arrow")
    rows.from_row = lambda values: values["frames"]
    assert list(rows) == list(range(1000, 1040))
