"""The download of a corpus from its published address: its archives are received, verified and unpacked.

A file is received or unpacked in the folder `.incomplete` and then renamed, so the process may be killed at any moment
and started again.
"""

import hashlib
import logging
import re
import shutil
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from filelock import FileLock, Timeout
from tqdm import tqdm

from gtcrn.errors import UserError, counted
from gtcrn.fetching import Corrupt, HttpClient, size_of

log = logging.getLogger(__name__)

CHECKSUMS = "checksums.sha256"
_UNPACKED = 1.4  # unpacked size / size of the archive; clean speech, which packs best, needs 1.38
_MOST_UNPACKED = 20  # the same ratio, above which an archive is refused: only silence is packed as tightly
_BLOCK = 2**16  # bytes


@dataclass(frozen=True)
class Archive:
    """The archive `NAME.zip`, which unpacks to the folder `NAME`. What is None is unknown and not verified."""

    name: str
    part: str
    url: str
    bytes: int | None = None
    md5: str | None = None
    files: int | None = None

    def paths(self, root: Path) -> tuple[Path, Path, Path]:
        """Return the file into which it is received, the file when it is complete, and the folder to unpack it in."""
        incomplete = root / ".incomplete"
        return incomplete / f"{self.name}.part", root / f"{self.name}.zip", incomplete / self.name

    def is_unpacked(self, root: Path) -> bool:
        folder = root / self.name
        if not folder.exists():
            return False
        present = sum(1 for path in folder.rglob("*") if path.is_file())
        if present < (self.files or 1):
            raise UserError(
                f"{folder}: holds {present} of {self.files or 'its'} files; remove or rename it, then repeat"
            )
        log.info("%s: complete with %s, skipped", folder, counted(present, "file"))
        return True


class CorpusDownload:
    """The download of some parts of a corpus.

    archives: {name: the other fields of `Archive`}. parts: those that are wanted.
    record, licence, citation: the corpus's page for people, its terms, and the work to cite.
    url: address of a mirror that holds the archives as NAME.zip, instead of their own addresses.
    keep_archives: leave them beside the folders they unpacked to.
    retries, timeout: see `HttpClient`.

    Raises UserError for an unknown part or a setting out of range.
    """

    def __init__(
        self,
        archives: dict[str, dict],
        parts: list[str] | str,
        record: str,
        licence: str,
        citation: str,
        url: str | None = None,
        keep_archives: bool = False,
        retries: int = 8,
        timeout: float = 60.0,
    ):
        parts = [parts] if isinstance(parts, str) else parts
        known = list(dict.fromkeys(entry["part"] for entry in archives.values()))
        for part in parts or ["nothing"]:
            if part not in known:
                raise UserError(f"download.parts names {part}; choose from {', '.join(known)}")
        if retries < 0 or timeout <= 0:
            raise UserError(f"download.retries={retries}, download.timeout={timeout}: at least 0, and more than 0 s")
        self.archives = []
        for name, entry in archives.items():
            if entry["part"] in parts:
                own = {"url": f"{url.rstrip('/')}/{name}.zip"} if url else {}
                self.archives.append(Archive(name, **entry | own))
        self.record, self.licence, self.citation = record, licence, citation
        self.keep_archives, self.retries, self.timeout = keep_archives, retries, timeout

    def fetch(self, root: Path, wait: Callable[[float], None] = time.sleep) -> list[Path]:
        """Download what is not there yet into `root`, and return the folders of all wanted archives.

        wait: pauses for so many seconds between two attempts. Raises UserError if the folder can't be written or is
        full, and if an archive can't be received or is twice not what was published.
        """
        lock = root / ".incomplete" / "lock"
        try:
            lock.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(lock, timeout=0):
                self._download(root, wait)
                lock.unlink()
            with suppress(OSError):  # it may hold the beginning of another part
                lock.parent.rmdir()
        except Timeout:
            raise UserError(f"output={root}: another download is at work there; let it finish") from None
        except OSError as error:
            raise UserError(f"output={root}: cannot be written: {error.strerror or error}") from error
        return [root / archive.name for archive in self.archives]

    def _download(self, root: Path, wait: Callable[[float], None]) -> None:
        advice = (
            f"repeat the command to go on, or put the archive, from {self.record} or elsewhere, into {root}, "
            "or name a mirror by download.url=ADDRESS"
        )
        client = HttpClient(self.retries, self.timeout, wait, advice)
        pending = [archive for archive in self.archives if not archive.is_unpacked(root)]
        self._require_space(root, pending, client)
        for archive in pending:
            self._install(root, archive, client)

    def _require_space(self, root: Path, pending: list[Archive], client: HttpClient) -> None:
        present, sizes = 0, []
        for archive in pending:
            part, zipped, folder = archive.paths(root)
            present += sum(size_of(file) for file in (part, zipped, *folder.rglob("*")) if file.is_file())
            sizes.append(size_of(zipped) or archive.bytes or client.size(archive.url))
        archives = sum(sizes) if self.keep_archives else max(sizes, default=0)
        needed, free = _UNPACKED * sum(sizes) + archives - present, shutil.disk_usage(root).free
        if needed > free:
            raise UserError(
                f"output={root}: {needed / 1e9:.1f} GB are needed and {free / 1e9:.1f} GB free; "
                "make room, choose another folder, or fewer download.parts=[...]"
            )

    def _install(self, root: Path, archive: Archive, client: HttpClient) -> None:
        part, zipped, folder = archive.paths(root)

        def accept(zipped: Path) -> None:
            sums = read_checksums(root)
            try:
                sums[zipped.name] = verify(zipped, archive, sums.get(zipped.name))
                unpack(zipped, folder, archive.files)
            except Corrupt:
                shutil.rmtree(folder, ignore_errors=True)
                raise
            written = folder.with_name(CHECKSUMS)
            written.write_text("".join(f"{sums[name]}  {name}\n" for name in sorted(sums)))
            written.replace(root / CHECKSUMS)

        client.fetch(archive.url, archive.bytes, part, zipped, accept)
        folder.replace(root / archive.name)
        if not self.keep_archives:
            zipped.unlink()


def verify(zipped: Path, archive: Archive, sha256: str | None) -> str:
    """Return the archive's SHA-256. Raises Corrupt if its MD5 or SHA-256 is not the expected one.

    Raises UserError if the SHA-256 alone differs: the MD5 was published, so the user's record of the other is wrong.
    """
    md5_found, sha256_found = hashlib.md5(usedforsecurity=False), hashlib.sha256()
    with (
        zipped.open("rb") as file,
        tqdm(desc=f"verifying {zipped.name}", total=size_of(zipped), unit="B", unit_scale=True, disable=None) as bar,
    ):
        while block := file.read(_BLOCK):
            md5_found.update(block)
            sha256_found.update(block)
            bar.update(len(block))
    if archive.md5 not in (None, md5_found.hexdigest()):
        raise Corrupt(f"its MD5 is {md5_found.hexdigest()} instead of {archive.md5}")
    if sha256 not in (None, sha256_found.hexdigest()):
        problem = f"its SHA-256 is {sha256_found.hexdigest()}, by {CHECKSUMS} it should be {sha256}"
        if archive.md5:
            raise UserError(f"{zipped}: {problem}, but its MD5 is the published one; mend that line")
        raise Corrupt(problem)
    return sha256_found.hexdigest()


def unpack(zipped: Path, folder: Path, files: int | None) -> None:
    """Unpack an archive into `folder`, but for members that are there already, by size and CRC-32.

    A top folder named like `folder` is left out, as are the files that macOS adds. Raises Corrupt if a member is
    damaged or would land outside the folder, if there are not `files` of them, and if they would be far larger than
    the archive.
    """
    with _naming_damage():
        archive = zipfile.ZipFile(zipped)
        infos = [info for info in archive.infolist() if not info.is_dir() and "__MACOSX" not in info.filename]
    with archive:
        members = {_target(folder, info.filename): info for info in infos}
        if files not in (None, len(members)):
            raise Corrupt(f"it holds {len(members)} files instead of {files}")
        unpacked = sum(info.file_size for info in infos)
        if unpacked > _MOST_UNPACKED * size_of(zipped):
            raise Corrupt(f"it would unpack to {unpacked / 1e9:.1f} GB, more than {_MOST_UNPACKED} times its size")
        for target, info in tqdm(members.items(), f"unpacking {zipped.name}", unit="file", disable=None):
            if size_of(target) == info.file_size and zlib.crc32(target.read_bytes()) == info.CRC:
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("wb") as file:
                file.writelines(_unpacked(archive, info))


def _unpacked(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Iterator[bytes]:
    """Yield a member block by block, no more than its announced size, so that it need not fit into memory."""
    with _naming_damage(), archive.open(info) as packed:
        while block := packed.read(_BLOCK):
            yield block


def read_checksums(root: Path) -> dict[str, str]:
    """Read {file name: SHA-256} from a file as sha256sum writes it; it is {} if there is no such file.

    Raises UserError for a line that is none of sha256sum's.
    """
    path, sums = root / CHECKSUMS, {}
    if path.exists():
        for line in path.read_text(errors="replace").splitlines():
            if not (fields := re.fullmatch(r"([0-9a-fA-F]{64}) [ *](.+)", line)):
                raise UserError(f"{path}: {line!r} is not a SHA-256 and a file name; mend or remove it")
            sums[fields[2]] = fields[1].lower()
    return sums


def _target(folder: Path, member: str) -> Path:
    parts = PurePosixPath(member).parts
    target = folder.joinpath(*parts[1:] if parts[:1] == (folder.name,) else parts)
    if folder.resolve() not in target.resolve().parents:
        raise Corrupt(f"its member {member} would land outside the folder")
    return target


@contextmanager
def _naming_damage() -> Iterator[None]:
    try:
        yield
    except Exception as error:  # for damaged files zipfile raises a dozen kinds of errors
        raise Corrupt(f"it is damaged: {str(error) or type(error).__name__}") from error
