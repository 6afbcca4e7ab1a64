"""Weights arrive by name, whole and verified, from servers that fail, and where there is no network."""

import io
import signal
import subprocess
import sys
import threading
import time
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest
import requests
from fixtures.disk import room_for
from fixtures.server import serving
from fixtures.weights import stated

import gtcrn
from gtcrn.errors import UserError
from gtcrn.weights import entries, held, resolve

FILE = "model_trained_on_dns3.tar"
CONTENT = np.random.default_rng(0).bytes(300_000)


@pytest.fixture
def server(register, monkeypatch):
    """Return a server of one file, which the registry has as `mine`; nothing waits between attempts."""
    monkeypatch.setattr(time, "sleep", lambda _: None)
    with serving({FILE: CONTENT}) as server:
        register(mine={"url": f"{server.url}{FILE}", **stated(CONTENT)})
        yield server


@pytest.fixture
def cache(tmp_path, register):
    return tmp_path / "cache" / "gtcrn" / "weights"


def refusal(name: str) -> str:
    with pytest.raises(UserError) as error:
        resolve(name)
    assert "\n" not in str(error.value)
    return str(error.value)


def visible(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("[!.]*"))


def test_weights_are_fetched_once(server, cache, caplog):
    caplog.set_level("INFO")
    assert held(entries()["mine"]) is None
    for _ in range(2):
        path = resolve("mine")
        assert path == cache / "mine.tar" and path.read_bytes() == CONTENT
    assert len(server.requests) == 1 and visible(cache) == ["mine.tar"]
    assert f"mine: fetching {server.url}{FILE}, licence MIT" in caplog.text
    assert held(entries()["mine"]) == path


def test_a_broken_connection_is_resumed(server, cache):
    server.script[FILE] = ["drop", 503, "drop"]
    assert resolve("mine").read_bytes() == CONTENT
    first, *others = server.asked(FILE)
    assert first is None and all(int(wanted[6:-1]) > 0 for wanted in others)


def test_what_is_not_what_was_published_never_gets_the_name(server, cache, caplog):
    server.files[FILE] = CONTENT[::-1]
    told = refusal("mine")
    assert "its SHA-256 is" in told and f"instead of {stated(CONTENT)['sha256']}, a second time, and removed" in told
    assert visible(cache) == [] and len(server.requests) == 2
    server.files[FILE] = CONTENT[:-1]
    assert f"offers {len(CONTENT) - 1} bytes, published were {len(CONTENT)}" in refusal("mine")
    server.script[FILE] = [
        lambda server: server.files.update({FILE: CONTENT[::-1]}),
        lambda server: server.files.update({FILE: CONTENT}),
    ]
    assert resolve("mine").read_bytes() == CONTENT
    assert "removed and fetched again" in caplog.text


def test_a_file_that_got_damaged_in_the_cache_is_fetched_again(server, cache):
    resolve("mine").write_bytes(CONTENT[::-1])
    assert resolve("mine").read_bytes() == CONTENT


def test_a_full_disk_is_told_and_what_arrived_is_kept(server, cache):
    with room_for(100_000):
        told = refusal("mine")
    assert told.startswith(f"{cache / 'mine.tar'}: can't be written (File too large; ")
    assert told.endswith(f"put {server.url}{FILE} into a folder, under any name, and set GTCRN_WEIGHTS to the folder")
    assert visible(cache) == []
    assert resolve("mine").read_bytes() == CONTENT and server.asked(FILE)[-1] == "bytes=100000-"


def test_a_cache_that_cannot_be_written(server, cache):
    cache.parent.parent.write_text("a file where the user's cache should be")
    assert refusal("mine").startswith(f"{cache / 'mine.tar'}: can't be written (Not a directory; ")


def test_without_network_a_line_says_which_file_to_put_where(server):
    server.shutdown(), server.server_close()
    address = f"{server.url}{FILE}"
    by_hand = f"put {address} into a folder, under any name, and set GTCRN_WEIGHTS to the folder"
    told = refusal("mine")
    assert told.startswith(f"{address}: ") and told.endswith(f"Connection refused; {by_hand}")


@pytest.mark.parametrize("step", [404, "page"])
def test_an_address_that_is_gone(server, step):
    server.script[FILE] = [step]
    assert "set GTCRN_WEIGHTS to the folder" in refusal("mine") and len(server.requests) == 1


def test_two_processes_fetch_once(server):
    """Threads have locks of their own, as processes have; the second begins while the first receives."""
    begun, released = threading.Event(), threading.Event()

    def slowly(_):
        begun.set()
        released.wait(30)

    server.script[FILE] = [slowly]
    found = []
    first, second = (threading.Thread(target=lambda: found.append(resolve("mine"))) for _ in range(2))
    first.start()
    assert begun.wait(30)
    second.start()
    second.join(0.3)
    released.set()
    first.join(), second.join()
    assert len(server.requests) == 1 and found[0] == found[1] and found[0].read_bytes() == CONTENT


def test_a_killed_process_is_followed_by_one_that_goes_on(tmp_path, server, cache):
    server.script[FILE] = ["stall"]
    program = "import sys, pathlib; from gtcrn.weights import registry, resolve; "
    program += "registry.FILE = pathlib.Path(sys.argv[1]); print(resolve('mine'))"
    process = subprocess.Popen([sys.executable, "-c", program, tmp_path / "package" / "registry.yaml"])
    part = cache / ".incomplete" / "mine.part"
    while process.poll() is None and not (part.exists() and part.stat().st_size):
        threading.Event().wait(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL and visible(cache) == []
    assert resolve("mine").read_bytes() == CONTENT
    first, second = server.asked(FILE)
    assert first is None and int(second[6:-1]) > 0


def test_a_folder_of_weights_needs_no_network_and_no_names(tmp_path, server, monkeypatch):
    monkeypatch.setenv("GTCRN_WEIGHTS", str(tmp_path / "usb"))
    digest = stated(CONTENT)["sha256"]
    missing = (
        f"mine: GTCRN_WEIGHTS={tmp_path}/usb holds no file with its SHA-256, {digest}; put {server.url}{FILE} there, "
    )
    assert refusal("mine") == f"{missing}under any name"
    (tmp_path / "usb" / "deep").mkdir(parents=True)
    (tmp_path / "usb" / "mine.tar").write_bytes(CONTENT[::-1])
    assert refusal("mine").startswith(missing)
    (tmp_path / "usb" / "deep" / "of any name.bin").write_bytes(CONTENT)
    assert resolve("mine") == tmp_path / "usb" / "deep" / "of any name.bin"
    assert not server.requests


def test_weights_without_checksum_or_address_are_refused(register, monkeypatch):
    register(open={"url": "https://somewhere/a.pth"}, found=stated(b"1"))
    told = "its SHA-256 is not known yet, so no file can be checked; if you trust https://somewhere/a.pth, "
    assert refusal("open") == f"open: {told}fetch it and name the file instead"
    assert refusal("found").startswith("found: no address of it is known; put the file into a folder, under any name, ")


def test_a_file_in_an_archive(server, register, cache):
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as written:
        written.writestr("t/log.txt", "of no use")
        written.writestr("t/00500.pth", CONTENT)
    server.files["t.zip"] = archive.getvalue()
    register(mine={"url": f"{server.url}t.zip", "member": "t/00500.pth", **stated(CONTENT)})
    assert resolve("mine") == cache / "mine.pth" and (cache / "mine.pth").read_bytes() == CONTENT
    register(other={"url": f"{server.url}t.zip", "member": "t/1.pth", **stated(b"1")})
    assert "it is no archive with t/1.pth (" in refusal("other") and visible(cache) == ["mine.pth"]


def test_weights_in_the_package(tmp_path, register):
    register(ours={"file": "ours.ckpt", **stated(CONTENT)})
    ours = tmp_path / "package" / "ours.ckpt"
    assert refusal("ours") == f"ours: {ours} is damaged or missing; install gtcrn again"
    ours.write_bytes(CONTENT)
    assert resolve("ours") == ours
    ours.write_bytes(CONTENT[::-1])
    assert "is damaged or missing" in refusal("ours")


def test_names_and_paths_are_told_apart(tmp_path, register, monkeypatch):
    monkeypatch.chdir(tmp_path)
    register(dtln=stated(b"2"), gtcrn_dns3=stated(b"1"), gtcrn_vctk=stated(b"3"))
    for path in ("nowhere.tar", "folder/gtcrn-dns3", "./dtln", "gtcrn-dns3.tar", Path("dtln")):
        assert resolve(path) == Path(path)
    (tmp_path / "run").mkdir()
    assert resolve("run") == Path("run")
    assert refusal("gtcrn-dns4") == "gtcrn-dns4: no such file, and no weights of that name; did you mean gtcrn-dns3?"
    assert refusal("GTCRN-DNS3").endswith("did you mean gtcrn-dns3?")
    assert refusal("gtcrn").endswith("did you mean gtcrn-dns3 or gtcrn-vctk?")
    assert refusal("zebra").endswith("no weights of that name; there are dtln, gtcrn-dns3, gtcrn-vctk")
    (tmp_path / "dtln").mkdir()
    assert refusal("dtln").startswith("dtln: names weights, and here is a file or folder of that name too; ")


def test_published_weights_load_by_name(references, monkeypatch):
    monkeypatch.setenv("GTCRN_WEIGHTS", str(references))
    assert gtcrn.load("gtcrn-dns3", padding="reflect").padding == "reflect"


def test_repositories_at_hugging_face(tmp_path, monkeypatch):
    """A stand-in for huggingface_hub, with its interface."""

    def hf_hub_download(repo_id, filename, *, revision=None):
        if revision == "gone":
            raise requests.HTTPError("404 Client Error\nRevision Not Found")
        return str(tmp_path / repo_id / revision / filename)

    monkeypatch.setitem(sys.modules, "huggingface_hub", types.SimpleNamespace(hf_hub_download=hf_hub_download))
    assert resolve("hf://me/mine@v1.0/deep/model.pth") == tmp_path / "me/mine/v1.0/deep/model.pth"
    address = "hf://me/mine@gone/model.pth"
    assert refusal(address) == f"{address}: HTTPError: 404 Client Error Revision Not Found"
    for address in ("hf://me/mine/model.pth", "hf://mine@v1/model.pth", "hf://me/mine@v1", "hf:me/mine@v1/a"):
        assert refusal(address) == f"{address}: expected hf://owner/name@revision/file, the revision a commit or a tag"
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert refusal("hf://me/mine@v1/a.pth").endswith("needs the package huggingface_hub: pip install -e '.[hub]'")
