"""Server of a page, reachable from this machine alone, on which exported models run in the browser."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import threading
from collections.abc import Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import platformdirs

from gtcrn.errors import UserError
from gtcrn.runtime.denoiser import open_onnx
from gtcrn.runtime.facts import Signal

log = logging.getLogger(__name__)

PAGE = Path(__file__).parent / "page"
# npm's folder is the user's: that of a package may not be written to, and an uninstalled package would leave it behind
NPM = platformdirs.user_cache_path("gtcrn") / "page"
_WANTED = ("package.json", "package-lock.json")
_RUNTIME = "node_modules/onnxruntime-web/dist"
_RUNTIME_FILES = ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm")
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".wasm": "application/wasm",
    ".onnx": "application/octet-stream",
}
_HOSTS = ("127.0.0.1", "localhost")
_IDLE_TIMEOUT = 30  # s after which an idle connection is closed
_CONNECTIONS = 32  # most at a time; a browser opens six
_HEADERS = {
    # with this the browser fetches nothing from elsewhere
    "Content-Security-Policy": "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self'; "
    "connect-src 'self'; style-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    # a page that is isolated from other origins gets a clock of 5 µs instead of 100 µs
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",  # since a model may be exported again under its name
}


def find(paths: Sequence[Path]) -> list[dict]:
    """Find the wave files among files and folders, searched at any depth, and describe them for the page.

    Each is {"name", "path", "bytes", "system", "licence", "origin", "sample_rate", "hop_length", "latency" (samples),
    "input", "output", "states": [{"input", "output", "shape"}, …]}. Other ONNX files of a folder are left out with a
    warning. Raises UserError for a file that is no wave file, and if there is none.
    """
    models = []
    for given in paths:
        if not given.is_dir():
            models.append(describe(given))
            continue
        for path in sorted(given.rglob("*.onnx")):
            try:
                models.append(describe(path))
            except UserError as error:
                log.warning("left out %s", error)
    if not models:
        raise UserError(
            f"models={','.join(map(str, paths))}: no wave file there; gtcrn task=export ckpt=… "
            "format=onnx_wave makes one"
        )
    names = [model["path"].stem.removesuffix("_wave") for model in models]
    for model, name in zip(models, names):
        model["name"] = name if names.count(name) == 1 else f"{model['path'].absolute().parent.name}/{name}"
    return models


def describe(path: Path) -> dict:
    """Describe a wave file as `find` does, without a name. Raises UserError if it is no wave file."""
    session = open_onnx(path)
    metadata = session.get_modelmeta().custom_metadata_map
    inputs, outputs = session.get_inputs(), session.get_outputs()
    kind = metadata.get("kind", "unknown")
    if kind != "wave":
        raise UserError(
            f"{path}: its kind is {kind}, and the page needs samples in and out; make such a file: "
            "gtcrn task=export ckpt=… format=onnx_wave"
        )
    try:
        # the page needs no n_fft, since any STFT is inside the file
        signal = Signal.read({"n_fft": 1, **metadata})
    except UserError as error:
        raise UserError(f"{path}: its metadata can't be right: {error}; export it again") from error
    shapes = [node.shape for node in inputs]
    if shapes[:1] != [[1, signal.hop_length]] or shapes != [node.shape for node in outputs]:
        raise UserError(f"{path}: its inputs and outputs are not those its metadata promises; export it again")
    return {
        "path": path,
        "bytes": path.stat().st_size,
        **{key: metadata.get(key, "unknown") for key in ("system", "licence", "origin")},
        **{key: getattr(signal, key) for key in ("sample_rate", "hop_length", "latency")},
        "input": inputs[0].name,
        "output": outputs[0].name,
        "states": [
            {"input": before.name, "output": after.name, "shape": before.shape}
            for before, after in zip(inputs[1:], outputs[1:])
        ],
    }


def is_installed() -> bool:
    """Return whether onnxruntime-web is there, in the release that the page wants."""
    last = NPM / "node_modules" / ".package-lock.json"  # npm writes it last
    return last.is_file() and all((NPM / name).read_bytes() == (PAGE / name).read_bytes() for name in _WANTED)


def install() -> None:
    """Install onnxruntime-web by npm, unless it is there. Raises UserError if that fails."""
    if is_installed():
        return
    command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    log.info("once: %s, in %s", " ".join(command), NPM)
    advice = "install Node.js with npm, and see that npm reaches its registry"
    try:
        NPM.mkdir(parents=True, exist_ok=True)
        for name in _WANTED:
            shutil.copyfile(PAGE / name, NPM / name)
        subprocess.run(command, cwd=NPM, check=True, capture_output=True, text=True)
    except KeyboardInterrupt:
        raise UserError("interrupted while onnxruntime-web was fetched; the same command begins again") from None
    except OSError as error:
        raise UserError(
            f"the page needs onnxruntime-web, and npm can't be run in {NPM} ({error.strerror}); {advice}"
        ) from error
    except subprocess.CalledProcessError as error:
        reason = next((line for line in error.stderr.splitlines() if "error" in line.lower()), "no reason given")
        raise UserError(f"the page needs onnxruntime-web, and npm failed ({reason.strip()}); {advice}") from error


class Server(ThreadingHTTPServer):
    """A server of the page, the runtime and the models, and of nothing else, on loopback at `url`.

    models: as `find` returns them. port: another free one is taken if it is not available; 0 for any.
    attenuation_limit_db: where the page's slider begins; None for no limit.
    """

    daemon_threads = True  # each connection has a thread

    def __init__(self, models: Sequence[dict], port: int, attenuation_limit_db: float | None = None):
        files = [path for path in PAGE.iterdir() if path.suffix in (".html", ".css", ".js")]
        self.files = {f"/{path.name}": path for path in files} | {"/": PAGE / "index.html"}
        self.files |= {f"/onnxruntime/{name}": NPM / _RUNTIME / name for name in _RUNTIME_FILES}
        self.files |= {f"/models/{index}.onnx": model["path"] for index, model in enumerate(models)}
        described = [
            {"url": f"models/{index}.onnx", **{key: value for key, value in model.items() if key != "path"}}
            for index, model in enumerate(models)
        ]
        self.page = json.dumps({"models": described, "attenuation_limit_db": attenuation_limit_db}).encode()
        self.free = threading.BoundedSemaphore(_CONNECTIONS)
        try:
            super().__init__((_HOSTS[0], port), _Handler)
        except OSError as error:
            log.warning("port=%d: %s; another one is taken", port, error.strerror)
            super().__init__((_HOSTS[0], 0), _Handler)
        self.url = f"http://{_HOSTS[0]}:{self.server_port}/"

    def read(self, path: str) -> tuple[bytes, str]:
        """Return the content and type of a path. Raises OSError if it is not served, or its file no longer exists."""
        if path == "/page.json":
            return self.page, "application/json"
        if path not in self.files:
            raise FileNotFoundError(path)
        return self.files[path].read_bytes(), _TYPES[self.files[path].suffix]

    def process_request(self, request, client_address) -> None:
        """Give the connection a thread of its own, or close it where there are too many."""
        if self.free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            log.warning("more than %d connections at once; one more is closed", _CONNECTIONS)
            self.shutdown_request(request)

    def process_request_thread(self, request, client_address) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.free.release()

    def handle_error(self, request, client_address) -> None:
        """Log a broken connection for debugging alone, since browsers often hang up."""
        log.debug("%s: connection broken", client_address, exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = _IDLE_TIMEOUT

    def do_GET(self) -> None:
        # an unread body would be taken for the next request; an error closes the connection
        if "Transfer-Encoding" in self.headers or self.headers.get("Content-Length", "0") != "0":
            self.send_error(HTTPStatus.BAD_REQUEST, "A GET has no body here")
            return
        # a foreign page that reaches this server uses another host name (DNS rebinding)
        if self.headers.get("Host", "").partition(":")[0] not in _HOSTS:
            self.send_error(HTTPStatus.FORBIDDEN)
            return
        try:
            content, kind = self.server.read(urlsplit(self.path).path)
        except (OSError, ValueError):
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def end_headers(self) -> None:
        """Send the security headers with every response, error pages included."""
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, format: str, *args) -> None:
        log.debug(format, *args)
