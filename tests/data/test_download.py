"""The download from a local server that fails in all the ways in which servers fail."""

import hashlib
import io
import json
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
from fixtures.server import Waits, serving

from gtcrn.data import download
from gtcrn.data.download import CHECKSUMS, Archive, CorpusDownload, unpack
from gtcrn.data.vctk_demand import VctkDemand
from gtcrn.errors import UserError
from gtcrn.fetching import Corrupt

SPEAKERS = {"testset": ["p232"], "trainset_28spk": ["p226", "p250"]}
FILES = 4  # a speaker


def wav(seed, amplitude):
    buffer = io.BytesIO()
    wave = np.random.default_rng(seed).uniform(-amplitude, amplitude, 48000).astype(np.float32)
    soundfile.write(buffer, wave, 48000, format="WAV", subtype="PCM_16")
    return buffer.getvalue()


def zipped(members):
    """Return an archive as macOS makes it, with its own additional files."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
        archive.writestr(f"__MACOSX/._{list(members)[-1]}", b"of no use")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def archives():
    """Return the server's archives, {NAME.zip: bytes}; each pair of folders holds 48 kHz noise at two levels."""
    made = {}
    for part, speakers in SPEAKERS.items():
        names = [f"{speaker}_{number:03d}" for speaker in speakers for number in range(1, FILES + 1)]
        for half, amplitude in (("noisy", 0.5), ("clean", 0.4)):
            folder = f"{half}_{part}_wav"
            members = {f"{folder}/": b""} | {f"{folder}/{n}.wav": wav(i, amplitude) for i, n in enumerate(names)}
            made[f"{folder}.zip"] = zipped(members)
    made["logfiles.zip"] = zipped({"log_testset.txt": b"p232_001 bus 17.5\n", "log_readme.txt": b"file noise SNR\n"})
    return made


@pytest.fixture
def server(archives):
    with serving(archives) as server:
        yield server


def options(server, parts=("testset",), known=True, **changed):
    """Return the settings of a download of the five archives; with `known`, with their right sizes and MD5s."""
    entries = {}
    for file, content in server.files.items():
        name = file.removesuffix(".zip")
        part = name.removeprefix("noisy_").removeprefix("clean_").removesuffix("_wav")
        files = FILES * len(SPEAKERS[part]) if part in SPEAKERS else None
        entries[name] = {"part": part, "url": "http://127.0.0.1:9/nowhere", "files": files}
        if known:
            entries[name] |= {"bytes": len(content), "md5": hashlib.md5(content).hexdigest()}
    about = {"record": "https://record", "licence": "CC BY", "citation": "Them"}
    return {"archives": entries, "parts": list(parts), "url": server.url, "timeout": 5.0} | about | changed


def corpus(server, *args, **changed):
    return CorpusDownload(**options(server, *args, **changed))


def tree(root):
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def expected(archives, tmp_path_factory):
    """Return the content of the folder after an undisturbed download of the test set."""
    root = tmp_path_factory.mktemp("expected")
    for name in ("clean_testset_wav", "noisy_testset_wav"):
        with zipfile.ZipFile(io.BytesIO(archives[f"{name}.zip"])) as archive:
            archive.extractall(root, [member for member in archive.namelist() if member.startswith(name)])
    sums = [
        f"{hashlib.sha256(archives[f'{n}_testset_wav.zip']).hexdigest()}  {n}_testset_wav.zip"
        for n in ("clean", "noisy")
    ]
    (root / CHECKSUMS).write_text("\n".join(sums) + "\n")
    return tree(root)


NAME = "noisy_testset_wav.zip"


def test_everything_arrives_in_the_layout_that_is_read(tmp_path, server):
    folders = corpus(server, ["testset", "trainset_28spk", "logfiles"]).fetch(tmp_path / "new" / "folder")
    root = tmp_path / "new" / "folder"
    assert sorted(path.name for path in root.iterdir()) == sorted([CHECKSUMS, *(path.name for path in folders)])
    assert len(folders) == 5
    read = VctkDemand(root, ["28spk"], ["p226"])
    assert [pair.name for pair in read.pairs("train")] == [f"p250_{n:03d}" for n in range(1, FILES + 1)]
    assert len(read.pairs("validation")) == len(read.pairs("test")) == FILES
    assert read.pairs("test")[0].snr == 17.5
    wave, rate = soundfile.read(read.pairs("test")[1].noisy)
    assert (rate, len(wave)) == (48000, 48000) and 0.45 < np.abs(wave).max() < 0.51


def test_checksums_are_those_of_sha256sum(tmp_path, server):
    corpus(server, keep_archives=True).fetch(tmp_path)
    checked = subprocess.run(
        ["sha256sum", "--check", "--strict", CHECKSUMS], cwd=tmp_path, capture_output=True, text=True
    )
    assert checked.returncode == 0 and checked.stdout.count(": OK") == 2


def test_what_is_complete_is_skipped(tmp_path, server, caplog):
    caplog.set_level("INFO")
    corpus(server).fetch(tmp_path)
    server.requests.clear()
    corpus(server).fetch(tmp_path)
    assert not server.requests
    assert f"{tmp_path / 'noisy_testset_wav'}: complete with {FILES} files, skipped" in caplog.text


def test_dropped_connections_are_resumed(tmp_path, server, expected):
    server.script[NAME] = ["drop", 503, "drop", "drop", 500, 429]
    waits = Waits()
    corpus(server, retries=3).fetch(tmp_path, waits)
    assert tree(tmp_path) == expected
    assert waits == [2, 4, 2, 2, 4, 8]  # longer and longer, until something arrives
    first, *others = server.asked(NAME)
    assert first is None and all(re.fullmatch(r"bytes=\d+-", wanted) for wanted in others)
    positions = [int(wanted[6:-1]) for wanted in others]
    assert positions == sorted(positions) and len(set(positions)) == 3


def test_waiting_ends_after_so_many_failures(tmp_path, server):
    server.script[NAME] = ["drop"] + [503] * 9
    waits = Waits()
    with pytest.raises(UserError, match=r"noisy_testset_wav.zip: HTTP 503 .*repeat the command to go on") as failure:
        corpus(server, retries=7).fetch(tmp_path, waits)
    assert "\n" not in str(failure.value)
    assert waits == [2, 4, 8, 16, 32, 60, 60]
    # and the next command begins where that one ended
    server.script.clear(), server.requests.clear()
    corpus(server).fetch(tmp_path)
    (wanted,) = server.asked(NAME)
    assert int(wanted.strip("bytes=-")) > len(server.files[NAME]) // 3


def test_silence_counts_as_a_failure(tmp_path, server, expected):
    server.script[NAME] = ["stall"]
    waits = Waits()
    corpus(server, timeout=0.3).fetch(tmp_path, waits)
    assert tree(tmp_path) == expected and waits
    assert server.asked(NAME)[-1] is not None


def test_a_server_without_ranges_starts_over(tmp_path, server, expected):
    server.ranges = False
    server.script[NAME] = ["drop", "drop"]
    corpus(server).fetch(tmp_path, Waits())
    assert tree(tmp_path) == expected


def test_a_server_without_validators_is_not_trusted_to_continue(tmp_path, server, expected):
    server.validators = server.heeds_if_range = False
    server.script[NAME] = ["drop"]
    corpus(server).fetch(tmp_path, Waits())
    assert tree(tmp_path) == expected
    assert server.asked(NAME) == [None, None]


@pytest.mark.parametrize("heeds_if_range", [True, False])
@pytest.mark.parametrize("length", ["same", "longer", "much longer"])
def test_a_file_that_changes_starts_over(tmp_path, server, expected, caplog, heeds_if_range, length):
    """Half of another version is there when the right one appears; mixed up, they would be found damaged later."""
    right = server.files[NAME]
    other = {"same": right[::-1], "longer": right + bytes(99), "much longer": right * 3}[length]

    def change(server):
        server.files[NAME] = right

    server.files[NAME], server.heeds_if_range = other, heeds_if_range
    server.script[NAME] = [None, "drop", change]  # the first asks for the size
    corpus(server, known=False).fetch(tmp_path, Waits())
    assert tree(tmp_path) == expected
    assert "removed and fetched again" not in caplog.text


def test_what_was_received_whole_is_not_asked_for_again(tmp_path, server, expected, monkeypatch):
    """The process may end between the last byte and the rename."""
    killed = RuntimeError("killed")
    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(killed))
        with pytest.raises(RuntimeError, match="killed"):
            corpus(server).fetch(tmp_path)
    assert not list(tmp_path.glob("*.zip"))
    corpus(server).fetch(tmp_path)
    assert len(server.requests) == 2  # one for each archive
    assert tree(tmp_path) == expected


def test_a_range_that_was_not_asked_for_is_not_used(tmp_path, server, expected):
    server.script[NAME] = ["drop", "elsewhere"]
    waits = Waits()
    corpus(server).fetch(tmp_path, waits)
    assert tree(tmp_path) == expected
    assert waits == [2]  # for the drop; starting over is no failure


@pytest.mark.parametrize("known", [True, False], ids=["with MD5", "by CRC alone"])
@pytest.mark.parametrize("damage", ["flipped", "truncated", "a page", "empty"])
def test_a_corrupt_archive_is_fetched_once_more(tmp_path, server, expected, caplog, known, damage):
    right = server.files[NAME]
    wrong = {
        "flipped": right[:9999] + bytes([right[9999] ^ 1]) + right[10000:],
        "truncated": right[: len(right) // 2],
        "a page": b"<html>".ljust(len(right)),
        "empty": b"",
    }[damage]
    wanted = corpus(server, known=known)
    if known:  # of its right length, or the header alone would tell
        wrong = wrong[: len(right)].ljust(len(right))
    seen = []

    def heal(server):
        seen.append(NAME)
        server.files[NAME] = right if len(seen) == 2 else wrong

    # without known sizes the first request only asks for the size
    server.script[NAME] = [heal, heal] if known else [heal, lambda server: None, heal]
    wanted.fetch(tmp_path)
    assert tree(tmp_path) == expected
    assert f"{NAME}: it" in caplog.text and "removed and fetched again" in caplog.text


def test_an_archive_that_stays_corrupt_is_named_and_removed(tmp_path, server):
    right = server.files[NAME]
    server.files[NAME] = right[:9999] + bytes([right[9999] ^ 1]) + right[10000:]
    with pytest.raises(UserError, match=rf"{NAME}: it is damaged: .*a second time, and removed") as failure:
        corpus(server, known=False).fetch(tmp_path)
    assert "\n" not in str(failure.value)
    assert server.asked(NAME) == [None, None, None]  # the size, and twice the file
    assert not list(tmp_path.glob("[!.]*"))


def test_an_archive_of_something_else(tmp_path, server):
    wanted = options(server)
    for entry in wanted["archives"].values():
        entry["bytes"] = None
    server.files[NAME] = zipped({f"noisy_testset_wav/{n}.wav": wav(n, 0.1) for n in range(FILES)})
    with pytest.raises(UserError, match=f"{NAME}: its MD5 is [0-9a-f]{{32}} instead of [0-9a-f]{{32}}, a second time"):
        CorpusDownload(**wanted).fetch(tmp_path)


def test_nothing_of_a_corrupt_archive_stays(tmp_path, server, expected):
    right = server.files[NAME]
    stale = bytearray(zipped({f"noisy_testset_wav/{n}.wav": wav(n, 0.1) for n in range(FILES)}))
    stale[len(stale) * 3 // 4] ^= 1

    def heal(server):
        server.files[NAME] = right

    server.files[NAME], server.script[NAME] = bytes(stale), [None, None, heal]  # the size, and twice the file
    corpus(server, known=False).fetch(tmp_path)
    assert tree(tmp_path) == expected


@pytest.mark.parametrize(
    ("step", "message"),
    [(404, "HTTP 404 Not Found"), (403, "HTTP 403 Forbidden"), ("page", "answers with a web page")],
)
def test_refusals_are_not_repeated(tmp_path, server, step, message):
    server.script[NAME] = [step] * 2
    waits = Waits()
    with pytest.raises(UserError, match=f"{message}.*https://record.*download.url=ADDRESS"):
        corpus(server).fetch(tmp_path, waits)
    assert waits == []


def test_another_size_than_published_is_reported_before_it_is_received(tmp_path, server):
    wanted = corpus(server)
    server.files[NAME] = bytes(1000)
    with pytest.raises(UserError, match="offers 1000 bytes, published were"):
        wanted.fetch(tmp_path)


def test_an_unreachable_server(tmp_path, server):
    wanted = corpus(server, retries=1)
    server.shutdown(), server.server_close()
    waits = Waits()
    with pytest.raises(UserError, match="Connection refused") as failure:
        wanted.fetch(tmp_path, waits)
    assert waits == [2] and "\n" not in str(failure.value)


def test_an_address_that_is_none(tmp_path, server):
    wanted = CorpusDownload({"a": {"part": "all", "url": ""}}, ["all"], "", "", "", url="my_mirror")
    waits = Waits()
    with pytest.raises(UserError, match="Invalid URL 'my_mirror/a.zip'"):
        wanted.fetch(tmp_path, waits)
    assert waits == []


def test_checksums_of_another_machine_are_enforced(tmp_path, server):
    corpus(server).fetch(tmp_path / "one")
    sums = (tmp_path / "one" / CHECKSUMS).read_text()
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / CHECKSUMS).write_text(re.sub("^[0-9a-f]+", lambda digest: digest[0].upper(), sums, flags=re.M))
    corpus(server, known=False).fetch(tmp_path / "two")
    assert (tmp_path / "two" / CHECKSUMS).read_text() == sums

    right = hashlib.sha256(server.files[NAME]).hexdigest()
    (tmp_path / "three").mkdir()
    (tmp_path / "three" / CHECKSUMS).write_text(sums.replace(right, 64 * "0"))
    message = f"{NAME}: its SHA-256 is {right}, by {CHECKSUMS} it should be 0000"
    with pytest.raises(UserError, match=f"{message}.*a second time, and removed"):
        corpus(server, known=False).fetch(tmp_path / "three")
    server.requests.clear()
    with pytest.raises(UserError, match=f"{message}.*mend that line"):  # the published MD5 says who is wrong
        corpus(server).fetch(tmp_path / "three")
    assert server.asked(NAME) == [None] and (tmp_path / "three" / NAME).exists()
    (tmp_path / "three" / CHECKSUMS).write_text("what is this\n")
    with pytest.raises(UserError, match="'what is this' is not a SHA-256 and a file name"):
        corpus(server).fetch(tmp_path / "three")


def test_archives_brought_by_hand_need_no_network(tmp_path, server, expected):
    for name in ("clean_testset_wav.zip", NAME):
        (tmp_path / name).write_bytes(server.files[name])
    corpus(server, known=False).fetch(tmp_path)
    assert not server.requests
    assert tree(tmp_path) == expected


def test_unpacking_goes_on_where_it_stopped(tmp_path, server, expected, monkeypatch):
    unpacked, written = download._unpacked, []

    def until_killed(archive, info):
        content = b"".join(unpacked(archive, info))
        if len(written) == 2:
            yield content[:1000].ljust(len(content))  # as a power failure may leave it
            raise RuntimeError("killed")
        written.append(info.filename)
        yield content

    def noted(archive, info):
        anew.append(info.filename)
        return unpacked(archive, info)

    with monkeypatch.context() as patched:
        patched.setattr(download, "_unpacked", until_killed)
        with pytest.raises(RuntimeError, match="killed"):
            corpus(server).fetch(tmp_path)
    assert not (tmp_path / "noisy_testset_wav").exists()
    server.requests.clear()
    anew = []
    monkeypatch.setattr(download, "_unpacked", noted)
    corpus(server).fetch(tmp_path)
    assert server.asked(NAME) == []
    assert len(anew) == 2 * FILES - 2 and not set(anew) & set(written)
    assert tree(tmp_path) == expected


@pytest.mark.parametrize("member", ["../outside.wav", "/tmp/outside.wav", "a/../../outside.wav", "a/.."])
def test_members_outside_the_folder_are_refused(tmp_path, member):
    (tmp_path / "a.zip").write_bytes(zipped({"a/inside.wav": b"1", member: b"2"}))
    with pytest.raises(Corrupt, match=f"its member {re.escape(member)} would land outside"):
        unpack(tmp_path / "a.zip", tmp_path / "made" / "a", None)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.zip"]


def test_whatever_is_damaged_is_called_so(tmp_path):
    """Random bytes anywhere in an archive: it is refused, or the files are right all the same."""
    content = {f"a/{n}.wav": np.random.default_rng(n).bytes(300) + bytes(300) for n in range(3)}
    right, refused = zipped(content), 0
    for seed in range(300):
        rng = np.random.default_rng(seed)
        wrong = np.frombuffer(right, np.uint8).copy()
        wrong[rng.integers(len(wrong), size=3)] = rng.integers(256, size=3)
        (tmp_path / "a.zip").write_bytes(wrong.tobytes()[: rng.choice([len(wrong), rng.integers(len(wrong))])])
        folder = tmp_path / str(seed) / "a"
        try:
            unpack(tmp_path / "a.zip", folder, 3)
        except Corrupt:
            refused += 1
        else:
            assert sorted(tree(folder).values()) == sorted(content.values())
    assert refused > 200


def test_a_wrong_number_of_files(tmp_path, server):
    wanted = corpus(server)
    wanted.archives = [Archive(**(vars(archive) | {"files": 5})) for archive in wanted.archives]
    with pytest.raises(UserError, match="it holds 4 files instead of 5"):
        wanted.fetch(tmp_path)


def test_a_folder_of_something_else_is_not_touched(tmp_path, server):
    (tmp_path / "clean_testset_wav").mkdir()
    (tmp_path / "clean_testset_wav" / "mine.wav").write_bytes(b"mine")
    with pytest.raises(UserError, match="clean_testset_wav: holds 1 of 4 files; remove or rename it"):
        corpus(server).fetch(tmp_path)
    assert not server.requests
    assert (tmp_path / "clean_testset_wav" / "mine.wav").read_bytes() == b"mine"


def test_room_on_the_disk_is_checked_first(tmp_path, server, monkeypatch):
    sizes = [len(server.files[name]) for name in ("clean_testset_wav.zip", NAME)]
    usage = shutil.disk_usage(tmp_path)
    needed = 1.4 * sum(sizes) + max(sizes)
    monkeypatch.setattr(download.shutil, "disk_usage", lambda _: usage._replace(free=int(needed) - 1))
    with pytest.raises(UserError, match="GB are needed and .* GB free"):
        corpus(server, known=False).fetch(tmp_path)
    assert not list((tmp_path / ".incomplete").glob("*.part"))
    (tmp_path / NAME).write_bytes(server.files[NAME])  # what is there already takes no more room
    monkeypatch.setattr(download.shutil, "disk_usage", lambda _: usage._replace(free=int(needed) - sizes[1] + 1))
    corpus(server, known=False).fetch(tmp_path)


def test_two_downloads_do_not_share_a_folder(tmp_path, server):
    (tmp_path / ".incomplete").mkdir()
    with download.FileLock(tmp_path / ".incomplete" / "lock"):
        with pytest.raises(UserError, match="another download is at work"):
            corpus(server).fetch(tmp_path)


def test_a_folder_that_cannot_be_made(tmp_path, server):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"output=.*file/corpus: cannot be written: Not a directory"):
        corpus(server).fetch(tmp_path / "file" / "corpus")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"parts": ["tset"]}, "names tset; choose from clean_a, b"),
        ({"parts": "tset"}, "names tset"),
        ({"parts": []}, "names nothing"),
        ({"retries": -1}, "download.retries=-1"),
        ({"timeout": 0}, "download.timeout=0"),
    ],
)
def test_wrong_options(options, message):
    entries = {"x": {"part": "clean_a", "url": ""}, "y": {"part": "b", "url": ""}, "z": {"part": "b", "url": ""}}
    with pytest.raises(UserError, match=message):
        CorpusDownload(entries, **({"parts": ["b"], "record": "", "licence": "", "citation": ""} | options))


def test_killed_while_receiving(tmp_path, server, expected):
    """The process is killed again and again; in the end the files are those of an undisturbed download."""
    server.script[NAME] = ["stall", "stall"]
    program = "import json, pathlib, sys; from gtcrn.data.download import CorpusDownload; "
    program += "CorpusDownload(**json.loads(sys.argv[1])).fetch(pathlib.Path(sys.argv[2]))"
    command = [sys.executable, "-c", program, json.dumps(options(server, timeout=60.0)), str(tmp_path)]

    def received():
        return sum(path.stat().st_size for path in (tmp_path / ".incomplete").glob("*.part"))

    for _ in range(2):
        before, begun = received(), len(server.requests)
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        while process.poll() is None and (len(server.requests) == begun or received() <= before):
            time.sleep(0.01)
        process.kill()
        assert process.wait() == -signal.SIGKILL
        assert not list(tmp_path.glob("*.zip"))
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    assert tree(tmp_path) == expected
    # it went on where it was, and did not only start over
    assert [wanted is not None for wanted in server.asked(NAME)] == [False, True, True]


def test_an_archive_that_unpacks_to_far_more_than_it_holds(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("silence.wav", bytes(10**6))
    with pytest.raises(Corrupt, match="more than 20 times its size"):
        unpack(tmp_path / "a.zip", tmp_path / "a", None)
    assert not (tmp_path / "a").exists()
