"""Files received over HTTP: in parts, with patience, and checked before they are used.

`task=download` and `gtcrn.weights` fetch files in this way.
"""

import json
import logging
import re
from collections.abc import Callable
from pathlib import Path

import requests
from tqdm import tqdm

from gtcrn.errors import UserError

log = logging.getLogger(__name__)

_BLOCK = 2**16  # bytes
_LONGEST_WAIT = 60  # s


class Corrupt(Exception):
    """A file is not what was published; the message is the reason."""


class HttpClient:
    """An HTTP client that tries again, after 2, 4, 8, ... s, what fails for the moment only.

    retries: failures in a row, without one new byte between, before giving up.
    timeout: seconds without data that count as a failure.
    wait: pauses for so many seconds between two attempts.
    advice: the end of the message when it gives up.
    """

    def __init__(self, retries: int, timeout: float, wait: Callable[[float], None], advice: str):
        self.retries, self.timeout, self.wait, self.advice = retries, timeout, wait, advice
        self.session = requests.Session()
        self.session.headers["Accept-Encoding"] = "identity"  # ranges count bytes of the file itself

    def size(self, url: str) -> int:
        """Return the announced size in bytes, or 0. It is asked by GET, as the repository answers HEAD with a page."""

        def ask() -> int:
            with self._open(url) as response:
                return _version(response)["total"] or 0

        return self._patiently(ask, url)

    def fetch(self, url: str, size: int | None, part: Path, complete: Path, accept: Callable[[Path], None]) -> None:
        """Receive a file, unless `complete` is there already, and hand it to `accept`.

        size: bytes that were published, None if unknown. part: what has been received so far; a note beside it states
        to which version of the file its bytes belong. accept: raises Corrupt if the file is not what was published; it
        is then removed and received once more. Raises UserError if it can't be received, or is corrupt twice.
        """
        for again in (True, False):
            if not complete.is_file():  # the user may have put it there
                self._receive_whole(url, size, part, complete)
            try:
                return accept(complete)
            except Corrupt as reason:
                complete.unlink()
                if not again:
                    raise UserError(f"{complete}: {reason}, a second time, and removed; {self.advice}") from None
                log.warning("%s: %s; removed and fetched again", complete, reason)

    def _receive_whole(self, url: str, published: int | None, part: Path, complete: Path) -> None:
        note = part.with_suffix(".json")
        self._patiently(lambda: self._receive(url, published, part, note), url, lambda: size_of(part))
        part.replace(complete)
        note.unlink()

    def _receive(self, url: str, published: int | None, part: Path, note: Path) -> int:
        have, version = _begun(part, note)
        if have and have == version["total"]:
            return have
        headers = {"Range": f"bytes={have}-", "If-Range": version["validator"]} if have else {}
        with self._open(url, headers) as response:
            if response.status_code == 200:
                have, version = 0, _version(response)
            elif not _continues(response, have, version):
                note.unlink()
                return self._receive(url, published, part, note)
            total = version["total"]
            if published and total not in (None, published):
                raise UserError(f"{url}: offers {total} bytes, published were {published}; {self.advice}")
            with (
                part.open("ab" if have else "wb") as file,
                tqdm(desc=part.stem, total=total, initial=have, unit="B", unit_scale=True, disable=None) as bar,
            ):
                if not have:  # only now are the bytes of an older version gone
                    note.write_text(json.dumps(version))
                for block in response.iter_content(_BLOCK):
                    file.write(block)
                    bar.update(len(block))
        if total not in (None, size_of(part)):
            raise requests.ConnectionError(f"ended after {size_of(part)} of {total} bytes")
        return size_of(part)

    def _open(self, url: str, headers: dict[str, str] | None = None) -> requests.Response:
        response = self.session.get(url, headers=headers, stream=True, timeout=self.timeout)
        status = response.status_code
        if status >= 500 or status in (408, 429):
            raise requests.HTTPError(f"HTTP {status} {response.reason}")
        if status not in ((200, 206, 416) if headers else (200,)):
            raise UserError(f"{url}: HTTP {status} {response.reason}; {self.advice}")
        if response.headers.get("Content-Type", "").startswith("text/html"):
            raise UserError(f"{url}: answers with a web page instead of the file; {self.advice}")
        return response

    def _patiently(self, attempt: Callable[[], int], url: str, progress: Callable[[], int] = lambda: 0) -> int:
        failures, furthest = 0, progress()
        while True:
            try:
                return attempt()
            except requests.RequestException as error:
                failures = 1 if progress() > furthest else failures + 1
                furthest = max(furthest, progress())
                reason = _innermost(error)
                if failures > self.retries or isinstance(error, ValueError):  # ValueError: no valid address
                    raise UserError(f"{url}: {reason}; {self.advice}") from error
                seconds = min(2**failures, _LONGEST_WAIT)
                log.warning("%s: %s; going on in %d s", url, reason, seconds)
                self.wait(seconds)


def _innermost(error: Exception) -> str:
    """Return the message of the innermost of the exceptions that requests and urllib3 wrap into one another."""
    while isinstance(inner := getattr(error, "reason", next(iter(error.args), None)), Exception):
        error = inner
    return inner if isinstance(inner, str) else str(error)


def size_of(path: Path) -> int:
    """Return the size of a file in bytes, 0 if there is none."""
    return path.stat().st_size if path.exists() else 0


def _begun(part: Path, note: Path) -> tuple[int, dict]:
    """Return how many bytes there are to go on from, and of which version; (0, {}) if that is unknown."""
    try:
        version = json.loads(note.read_text())
    except (OSError, ValueError):
        return 0, {}
    return (size_of(part), version) if version["validator"] else (0, {})


def _version(response: requests.Response) -> dict:
    length = response.headers.get("Content-Length")
    return {"validator": _validator(response), "total": int(length) if length else None}


def _validator(response: requests.Response) -> str | None:
    """Return the header that changes with the file. A weak ETag, W/"...", does not promise the same bytes."""
    etag = response.headers.get("ETag", "W/")
    return response.headers.get("Last-Modified") if etag.startswith("W/") else etag


def _continues(response: requests.Response, have: int, version: dict) -> bool:
    """Return whether the response is the rest of the same version: not every server that has ranges heeds If-Range."""
    span = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
    same = _validator(response) in (None, version["validator"])
    return same and span is not None and (int(span[1]), int(span[2])) == (have, version["total"])
