"""The files of weights: where this machine has them, and how it gets them."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import time
import zipfile
from pathlib import Path

from gtcrn.errors import UserError, nearest
from gtcrn.files import expanded, unwritable
from gtcrn.weights.registry import Entry, entries

log = logging.getLogger(__name__)

FOLDER = "GTCRN_WEIGHTS"  # the environment variable that names a folder of weights, for machines without network
_HUB = re.compile(r"hf://([^/@]+/[^/@]+)@([^/@]+)/(.+)")
_RETRIES, _TIMEOUT = 2, 20.0  # s; whoever waits for a small file wants to be told soon


def resolve(path: str | Path) -> Path:
    """Return the file that a path, a name of the registry or an address `hf://owner/name@revision/file` stands for.

    A name is a str without a folder and a suffix; its weights are fetched if this machine does not have them. All else
    is returned as a path, whether there is a file or not. Raises UserError for an unknown name that is no file either,
    for a name that is also a file, and if the weights can't be had.
    """
    if not isinstance(path, str):
        return path
    if path.startswith("hf:"):
        return _from_hub(path)
    here = Path(path)
    if here.name != path or here.suffix:
        return here
    named = entries()
    if path in named:
        if here.exists():
            raise UserError(
                f"{path}: names weights, and here is a file or folder of that name too; write ./{path}, or move it"
            )
        return held(named[path]) or _fetch(named[path])
    if here.exists():
        return here
    raise UserError(f"{path}: no such file, and no weights of that name; {nearest(path.lower(), named)}")


def held(entry: Entry) -> Path | None:
    """Return the file of the weights if it is on this machine and its SHA-256 fits, else None.

    It is in the package, or anywhere in the folder that GTCRN_WEIGHTS names, under any name, or, if that is not set, in
    the user's cache.
    """
    if not entry.sha256:
        return None
    if entry.packaged:
        candidates = [entry.packaged]
    elif folder := os.environ.get(FOLDER):
        candidates = sorted(expanded(folder).rglob("*"))
    else:
        candidates = [_cached(entry)]
    files = (path for path in candidates if path.is_file() and entry.bytes in (None, path.stat().st_size))
    return next((path for path in files if _sha256(path) == entry.sha256), None)


def _cached(entry: Entry) -> Path:
    import platformdirs

    suffix = Path(entry.member or entry.url or "").suffix
    return platformdirs.user_cache_path("gtcrn") / "weights" / f"{entry.name}{suffix}"


def _fetch(entry: Entry) -> Path:
    """Fetch the weights into the user's cache, where they appear whole and verified.

    Raises UserError in one line that says which file to put where if this can't be done.
    """
    if entry.packaged:
        raise UserError(f"{entry.name}: {entry.packaged} is damaged or missing; install gtcrn again")
    source = f"{entry.member} of {entry.url}" if entry.member else entry.url or "the file"
    if not entry.sha256:
        raise UserError(
            f"{entry.name}: its SHA-256 is not known yet, so no file can be checked; if you trust {source}, fetch it "
            "and name the file instead"
        )
    if folder := os.environ.get(FOLDER):
        raise UserError(
            f"{entry.name}: {FOLDER}={folder} holds no file with its SHA-256, {entry.sha256}; put {source} there, "
            "under any name"
        )
    by_hand = f"put {source} into a folder, under any name, and set {FOLDER} to the folder"
    if not entry.url:
        raise UserError(f"{entry.name}: no address of it is known; {by_hand}; its SHA-256 is {entry.sha256}")
    from filelock import FileLock

    from gtcrn.fetching import Corrupt, HttpClient

    target = _cached(entry)
    incomplete = target.parent / ".incomplete"
    received = incomplete / target.name

    def accept(received: Path) -> None:
        if entry.member:
            try:
                with zipfile.ZipFile(received) as archive, archive.open(entry.member) as packed:
                    unpacked = packed.read()
            except Exception as error:  # for damaged files zipfile raises a dozen kinds of errors
                raise Corrupt(f"it is no archive with {entry.member} ({error})") from error
            received.write_bytes(unpacked)
        if (found := _sha256(received)) != entry.sha256:
            raise Corrupt(f"its SHA-256 is {found} instead of {entry.sha256}")
        received.replace(target)

    try:
        incomplete.mkdir(parents=True, exist_ok=True)
        with FileLock(incomplete / f"{entry.name}.lock"):
            if not held(entry):  # another process may have fetched it meanwhile
                log.info("%s: fetching %s, licence %s", entry.name, entry.url, entry.licence)
                client = HttpClient(_RETRIES, _TIMEOUT, time.sleep, by_hand)
                size = None if entry.member else entry.bytes
                client.fetch(entry.url, size, incomplete / f"{entry.name}.part", received, accept)
    except OSError as error:
        raise UserError(f"{unwritable(target, error)}; {by_hand}") from error
    return target


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _from_hub(address: str) -> Path:
    """Return a file of a repository at Hugging Face, from its cache or fetched. Raises UserError in one line."""
    parts = _HUB.fullmatch(address)
    if not parts:
        raise UserError(f"{address}: expected hf://owner/name@revision/file, the revision a commit or a tag")
    try:
        from huggingface_hub import hf_hub_download
    except ImportError as error:
        raise UserError(f"{address}: needs the package huggingface_hub: pip install -e '.[hub]'") from error
    repository, revision, file = parts.groups()
    try:
        return Path(hf_hub_download(repository, file, revision=revision))
    except Exception as error:  # the package raises errors of its own, of requests or httpx, and of the system
        raise UserError(f"{address}: {type(error).__name__}: {' '.join(str(error).split())}") from error
