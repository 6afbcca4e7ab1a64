"""Manifests of folders, of lists and ready-made ones: what is scanned, cached, refreshed and refused."""

import os
import pickle
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as some

from gtcrn.data import audio, manifest
from gtcrn.data.manifest import open_corpora, open_manifest, usable
from gtcrn.data.tables import write_table
from gtcrn.errors import UserError


@pytest.fixture
def tree(tmp_path, recordings):
    """Write nested folders with files at two rates."""
    root = tmp_path / "corpus"
    for source, target in (
        ("dns_mini/extra_clean/LJ001-0001.wav", "lj/SSB0001/a_1.wav"),
        ("dns_mini/extra_clean/LJ001-0002.wav", "lj/SSB0001/a_2.wav"),
        ("dns_mini/clean/clean_fileid_0.wav", "dns/deep/down/SSB0002/b_1.wav"),
    ):
        (root / target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(recordings / source, root / target)
    return root


def opened(path, tmp_path, **options):
    return open_manifest(path, "data.speech", tmp_path / "cache", **options)


def test_a_folder_is_searched_at_any_depth(tree, tmp_path):
    files = opened(tree, tmp_path)
    assert [file.path for file in files] == [
        tree / "dns/deep/down/SSB0002/b_1.wav",
        tree / "lj/SSB0001/a_1.wav",
        tree / "lj/SSB0001/a_2.wav",
    ]
    first = files[0]
    wave, rate = audio.read(first.path)
    assert (first.frames, first.rate, first.channels) == (len(wave), rate, 1) == (480000, 16000, 1)
    assert first.seconds == 30.0
    assert first.peak == pytest.approx(np.abs(wave).max())
    assert first.rms == pytest.approx(np.sqrt(np.mean(wave.astype(float) ** 2)), rel=1e-5)
    assert files[1].rate == 22050


def test_speakers_are_found_in_names_folders_and_paths(tree, tmp_path):
    for speaker, expected in (
        (None, ["", "", ""]),
        ("prefix", ["b", "a", "a"]),
        ("folder", ["SSB0002", "SSB0001", "SSB0001"]),
        (r"SSB(\d+)", ["0002", "0001", "0001"]),
    ):
        files = opened(tree, tmp_path, speaker=speaker)
        assert [file.speaker for file in files] == expected == files.speakers().tolist()
    for rule, message in (("(xyz)", r"finds no \(group\) in dns/deep.*b_1.wav"), ("(", "not a regular expression")):
        with pytest.raises(UserError, match=message):
            opened(tree, tmp_path, speaker=rule).speakers()


def test_only_what_has_changed_is_looked_at_again(tree, tmp_path, monkeypatch):
    opened(tree, tmp_path)
    looked = []
    facts_of = manifest.facts_of
    monkeypatch.setattr(manifest, "facts_of", lambda path: looked.append(path.name) or facts_of(path))
    opened(tree, tmp_path)
    assert looked == []
    (tree / "lj/SSB0001/a_2.wav").unlink()
    audio.write(tree / "lj/SSB0001/a_1.wav", 0.1 * np.ones(16000, np.float32), 16000)
    audio.write(tree / "lj/new.wav", 0.1 * np.ones(16000, np.float32), 16000)
    files = opened(tree, tmp_path)
    assert sorted(looked) == ["a_1.wav", "new.wav"]
    assert [(file.path.name, file.seconds) for file in files] == [("b_1.wav", 30.0), ("new.wav", 1.0), ("a_1.wav", 1.0)]


def test_a_link_that_leads_back_is_followed_once(tree, tmp_path):
    os.symlink(tree, tree / "lj" / "again")
    assert len(opened(tree, tmp_path)) == 3


def test_a_list_of_files(tree, tmp_path):
    listed = tree / "some files.txt"
    (tree / "with space.wav").write_bytes((tree / "lj/SSB0001/a_2.wav").read_bytes())
    listed.write_text(f"# the best\n{tree}/lj/SSB0001/a_1.wav\n\nwith space.wav\nno such.wav\n")
    files, bad = usable(opened(listed, tmp_path), 16000)
    assert [file.path.name for file in files] == ["a_1.wav", "with space.wav"]
    assert [(file.path.name, file.problem) for file in bad] == [("no such.wav", "not readable as audio: no such file")]


def test_bad_files_are_named(tree, tmp_path, recordings, monkeypatch):
    wave = audio.read(tree / "lj/SSB0001/a_1.wav")[0]
    nan = wave.copy()
    nan[5] = np.nan
    audio.write(tree / "nan.wav", nan, 16000, "FLOAT")
    audio.write(tree / "silent.wav", 0 * wave, 16000)
    audio.write(tree / "empty.wav", wave[:0], 16000)
    audio.write(tree / "brief.wav", wave[:1600], 16000)
    audio.write(tree / "low.wav", wave, 8000)
    (tree / "garbage.wav").write_bytes(b"RIFF")
    audio.write(tree / "integers.wav", np.round(32767 * wave), 16000, "FLOAT")
    huge = wave.copy()
    huge[5] = 1e20
    audio.write(tree / "huge.wav", huge, 16000, "FLOAT")
    whole = (tree / "lj/SSB0001/a_1.wav").read_bytes()
    audio.write(tree / "cut.flac", wave, 16000)
    (tree / "cut.flac").write_bytes((tree / "cut.flac").read_bytes()[:20000])
    (tree / "cut.wav").write_bytes(whole[:20001])
    scandir = os.scandir

    def closed(folder):
        if str(folder).endswith("deep"):
            raise PermissionError(13, "Permission denied")
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", closed)
    files, bad = usable(opened(tree, tmp_path), 16000, least_seconds=0.5)
    problems = {file.path.name: file.problem for file in bad}
    assert [file.path.name for file in files] == ["a_1.wav", "a_2.wav"]
    assert problems.keys() == {
        "nan.wav", "silent.wav", "empty.wav", "brief.wav", "low.wav", "garbage.wav", "cut.flac", "cut.wav", "deep",
        "integers.wav", "huge.wav",
    }  # fmt: skip
    for name, message in dict(
        nan="NaN", silent="silent", empty="empty", brief="0.10 s where at least 0.5 s",
        low="8000 Hz where at least 16000", garbage="not readable", huge="peak of 1e+20 where full scale is 1",
        integers=f"peak of {np.round(32767 * np.abs(wave).max()):.0f} where full scale is 1",
    ).items():  # fmt: skip
        assert message in problems[f"{name}.wav"]
    assert problems["deep"] == "unreadable folder: Permission denied"


@pytest.mark.parametrize("suffix", [".arrow", ".parquet"])
def test_a_ready_made_manifest_is_opened_as_it_is(tree, tmp_path, suffix, monkeypatch):
    scanned = opened(tree, tmp_path)
    table = scanned.table.take(np.array([0, 2])).replace_schema_metadata(None)
    table = table.append_column("speaker", pa.array(["ann", "ben"]))
    file = tree / f"ready{suffix}"
    write_table(table, file) if suffix == ".arrow" else pyarrow.parquet.write_table(table, file)
    monkeypatch.setattr(manifest, "facts_of", None)
    files = opened(file, tmp_path)
    assert [(row.path, row.speaker) for row in files] == [(scanned[0].path, "ann"), (scanned[2].path, "ben")]
    assert files.identify_speakers() == [("ann", "manifest"), ("ben", "manifest")]
    scanned[2].path.unlink()
    with pytest.raises(UserError, match="a_2.wav, one of its files, is missing; make it anew with gtcrn"):
        opened(file, tmp_path)


def test_a_path_to_nothing_usable_is_refused(tree, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.doc").touch()
    (tmp_path / "bad.arrow").write_bytes(b"nothing")
    write_table(pa.table({"a": [1]}), tmp_path / "other.arrow")
    for name, message in (
        ("none", "no such file or folder"),
        ("empty", "no audio files"),
        ("notes.doc", "expected a folder, a list"),
        ("bad.arrow", "not readable as a table"),
        ("other.arrow", "has no column .*path"),
    ):
        with pytest.raises(UserError, match=f"{name}.*{message}"):
            opened(tmp_path / name, tmp_path)


def test_corpora_with_weights_rates_and_speakers(tree, tmp_path):
    corpora = {"lj": {"path": str(tree / "lj"), "weight": 0.3}, "dns": {"path": str(tree / "dns"), "weight": 0.7}}
    corpora["dns"]["speaker"] = "folder"
    lj, dns = open_corpora(corpora, "data.speech", tmp_path)
    assert (lj.name, lj.weight, len(lj.files), dns.name, dns.weight) == ("lj", 0.3, 2, "dns", 0.7)
    assert dns.files[0].speaker == "SSB0002"
    one, other = open_corpora([str(tree / "lj"), str(tree / "dns")], "data.speech", tmp_path)
    assert (one.weight, other.weight) == (2, 1)
    shutil.copytree(tree / "lj", tmp_path / "elsewhere" / "lj")
    twins = open_corpora([str(tree / "lj"), str(tmp_path / "elsewhere" / "lj")], "data.speech", tmp_path)
    assert [len(corpus.files) for corpus in twins] == [2, 2]  # folders of one name are two corpora
    for wrong, message in (
        ({"lj": {"weight": 1}}, "lj: path is missing"),
        ({"lj": {"path": str(tree), "wieght": 1}}, "lj: unknown wieght"),
        ({"lj": {"path": str(tree), "weight": 0}}, "lj.weight=0"),
        ({"lj": {"path": str(tree), "weight": "much"}}, "lj.weight=much"),
        ({"lj": None}, "data.speech.lj=None: give a folder"),
        (5, "data.speech.5=5: give a folder"),
        ({"lj": {"path": str(tree), "weight": 1}, "dns": str(tree)}, "all or none"),
        ({"lj": str(tree / "none"), "dns": str(tree)}, "data.speech.lj=.*none: no such"),
    ):
        with pytest.raises(UserError, match=message):
            open_corpora(wrong, "data.speech", tmp_path)


def test_rows_travel_to_other_processes_light(tree, tmp_path):
    files = opened(tree, tmp_path).select(np.array([2, 0]))
    copy = pickle.loads(pickle.dumps(files))
    assert list(copy) == list(files)
    assert len(pickle.dumps(files)) < 1000
    audio.write(tree / "new.wav", 0.1 * np.ones(16000, np.float32), 16000)
    travelling = pickle.dumps(files)
    assert len(opened(tree, tmp_path)) == 4  # another run scans the folder anew
    assert list(pickle.loads(travelling)) == list(files)


def test_a_ready_made_manifest_must_stay_as_it_is(tree, tmp_path):
    known = opened(tree, tmp_path)
    write_table(known.table, tree / "manifest.arrow")
    files = opened(tree, tmp_path)
    travelling = pickle.dumps(files)
    write_table(known.table.slice(1), tree / "manifest.arrow")
    with pytest.raises(UserError, match="manifest.arrow was changed by another run"):
        pickle.loads(travelling)[0]
    assert list(files) == list(known)  # what was open stays open


def test_a_ready_made_manifest_whose_lengths_are_wrong_is_refused(tree, tmp_path):
    table = opened(tree, tmp_path).table
    frames = table["frames"].to_pylist()
    for column, values, message in (
        ("frames", [frames[0], frames[1] + 64, frames[2]], "lj/SSB0001/a_1.wav: .* do not agree"),
        ("frames", [frames[0], 0, frames[2]], "lj/SSB0001/a_1.wav: .* do not agree"),
        ("rate", ["fast"] * 3, "rate is string"),
        ("peak", [0.5, None, 0.5], "peak is missing in 1 row"),
    ):
        wrong = table.set_column(table.column_names.index(column), column, pa.array(values))
        write_table(wrong, tmp_path / "wrong.arrow")
        with pytest.raises(UserError, match=f"wrong.arrow: {message}.*make it anew with gtcrn"):
            opened(tmp_path / "wrong.arrow", tmp_path)


HOSTILE_LINES = [
    "~",
    "~nobody/a.wav",
    "/",
    "..",
    ".",
    "good",
    "good.wav/x",
    "a\0b.wav",
    "x" * 300,
    "# good.wav",
    "\udce9.wav",
]


@settings(max_examples=40)
@given(
    some.lists(some.text(max_size=8) | some.sampled_from(HOSTILE_LINES)),
    some.lists(some.text(max_size=8) | some.sampled_from(HOSTILE_LINES)),
    some.sampled_from(["\n", "\r\n"]),
)
def test_a_list_with_anything_in_it_tells_of_every_line(tmp_path_factory, before, after, end):
    folder = tmp_path_factory.mktemp("list")
    soundfile.write(folder / "good.wav", np.full(1000, 0.1), 16000)
    text = end.join([*before, " good.wav ", *after])
    (folder / "list.txt").write_bytes(text.encode(errors="surrogatepass"))
    rows = list(opened(folder / "list.txt", folder))
    assert [row.path for row in rows if not row.problem] == [folder / "good.wav"]
    assert all(len(row.problem.splitlines()) == 1 for row in rows if row.problem)


def test_a_damaged_manifest_is_refused_or_can_be_read(tmp_path):
    for number in range(3):
        soundfile.write(tmp_path / f"s{number}_1.wav", np.full(1000 + number, 0.1), 16000)
    ready = tmp_path / "manifest.arrow"
    write_table(opened(tmp_path, tmp_path).table, ready)
    content = ready.read_bytes()
    for offset in range(0, len(content), 7):
        ready.write_bytes(content[:offset] + bytes([content[offset] ^ 0x81]) + content[offset + 1 :])
        try:
            files = opened(tmp_path, tmp_path)
        except UserError as error:
            assert len(str(error).splitlines()) == 1
        else:
            assert [file.frames for file in files if not file.problem] == [1000, 1001, 1002]
            assert len(files.speakers()) == 3
        ready.write_bytes(content[:offset])
        with pytest.raises(UserError, match="manifest.arrow"):
            opened(tmp_path, tmp_path)
