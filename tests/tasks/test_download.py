"""task=download as a user runs it, against Python's own web server on this machine."""

import functools
import io
import re
import signal
import socket
import threading
import zipfile
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import soundfile
from fixtures.commands import compose, run_command, start_command

from gtcrn.data.vctk_demand import VctkDemand
from gtcrn.errors import UserError


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture
def address(tmp_path):
    """Yield the address of a server of the test set, with two utterances of 18 s, and its log."""
    folder = tmp_path / "server"
    folder.mkdir()
    for name in ("clean_testset_wav", "noisy_testset_wav"):
        with zipfile.ZipFile(folder / f"{name}.zip", "w") as archive:
            for number in (1, 2):
                buffer = io.BytesIO()
                wave = np.random.default_rng(number).uniform(-0.5, 0.5, 18 * 8000)
                soundfile.write(buffer, wave, 8000, format="WAV")
                archive.writestr(f"{name}/p232_00{number}.wav", buffer.getvalue())
    with zipfile.ZipFile(folder / "logfiles.zip", "w") as archive:
        archive.writestr("log_testset.txt", "p232_001 bus 17.5\np232_002 cafe 12.5\n")
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder))) as server:
        server.handle_error = lambda *_: None  # clients that only ask for the size go away
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def unknown(*names):
    """Return overrides that drop the known sizes and checksums of these archives."""
    return [f"download.archives.{name}.{key}=null" for name in names for key in ("bytes", "md5", "files")]


@pytest.mark.slow
def test_a_corpus_arrives(tmp_path, address):
    archives = unknown("clean_testset_wav", "noisy_testset_wav", "logfiles")
    overrides = ("output=corpus", "download.parts=[testset,logfiles]", f"download.url={address}", *archives)
    for skipped in (0, 2):
        result = run_command(tmp_path, "task=download", *overrides)
        assert result.returncode == 0, result.stderr
        assert "licence: CC BY 4.0" in result.stdout
        assert re.search(r"^ +noisy_testset_wav +2 +0\.01 *$", result.stdout, re.M)
        assert re.search(r"^ +logfiles +1 +– *$", result.stdout, re.M)
        assert result.stdout.endswith("next: gtcrn data=vctk_demand data.root=corpus\n")
        assert result.stdout.count("complete with 2 files, skipped") == skipped
    assert [pair.snr for pair in VctkDemand(tmp_path / "corpus", ["28spk"], ["p226"]).pairs("test")] == [17.5, 12.5]


def test_mistakes_are_told_in_a_line(tmp_path):
    result = run_command(tmp_path, "task=download", "output=corpus", "download.parts=[testsets]")
    assert result.returncode == 2 and "Traceback" not in result.stdout
    choices = "testset, logfiles, trainset_28spk, trainset_56spk"
    assert result.stderr == f"error: download.parts names testsets; choose from {choices}\n"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ((), "task=download needs output=…"),
        (("output=FOLDER/file/a",), "file/a: cannot be written: Not a directory"),
        (("output=FOLDER", "download.retries=many"), "download.retries=many: must be a whole number"),
        (("output=FOLDER", "download.parts=[trainset_28spk]", "download.url=mirror"), "Invalid URL 'mirror/"),
        (("output=FOLDER", "download.parts=[trainset_28spk]"), "HTTP 404 File not found"),
        (("output=FOLDER", "download.parts=[logfiles]"), r"offers \d+ bytes, published were 115932"),
        (
            ("output=FOLDER", "download.parts=[logfiles]", "download.archives.logfiles.bytes=null"),
            "its MD5 is [0-9a-f]{32} instead of 0d16f5b6afe12d64238d1e4a0e6ff6e8, a second time",
        ),
    ],
)
def test_what_is_wrong_is_named(perform, tmp_path, address, overrides, message):
    (tmp_path / "file").write_text("")
    overrides = [override.replace("FOLDER", str(tmp_path)) for override in overrides]
    with pytest.raises(UserError, match=message) as failure:
        perform("task=download", f"download.url={address}", *overrides)
    assert "\n" not in str(failure.value)


def test_an_interruption_is_told_in_a_line(tmp_path):
    """Ctrl-C is pressed while the task waits for a server that accepts the connection and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"download.url=http://127.0.0.1:{silent.getsockname()[1]}"
        process = start_command(tmp_path, "task=download", "output=corpus", url)
        connection, _ = silent.accept()
        connection.recv(1)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors == "error: interrupted; the same command goes on where it stopped, in corpus\n"


def test_the_published_archives_are_well_formed():
    archives = compose("task=download").download.archives
    assert all(re.fullmatch("[0-9a-f]{32}", archive.md5) for archive in archives.values())
    for key in ("md5", "url"):
        assert len({archive[key] for archive in archives.values()}) == len(archives) == 7
    for part, files in (("testset", 824), ("trainset_28spk", 11572), ("trainset_56spk", 23075)):
        for half in ("clean", "noisy"):
            archive = archives[f"{half}_{part}_wav"]
            assert (archive.part, archive.files) == (part, files)
