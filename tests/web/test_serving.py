"""The page on which exported models run in the browser: what is served, to whom, and what the page does with it."""

import http.client
import json
import shutil
import socket
import threading
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
import soundfile
from onnx import TensorProto, helper

from gtcrn.errors import UserError
from gtcrn.runtime.denoiser import Denoiser
from gtcrn.web import serving

HOP = 160
TONE = (0.5 * np.sin(2 * np.pi * 440 / 16000 * np.arange(16000))).astype(np.float32)


def make_model(path: Path, **properties: str) -> Path:
    """A wave file that halves the hop before the one it is given."""
    names = "input", "state", "output", "next_state"
    x, state, y, next_state = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, HOP]) for name in names)
    half = helper.make_tensor("half", TensorProto.FLOAT, [], [0.5])
    nodes = [
        helper.make_node("Mul", ["state", "half"], ["output"]),
        helper.make_node("Identity", ["input"], ["next_state"]),
    ]
    graph = helper.make_graph(nodes, "half", [x, state], [y, next_state], [half])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    sizes = {"sample_rate": "16000", "hop_length": str(HOP), "latency": str(HOP)}
    helper.set_model_props(model, {"kind": "wave", "licence": "MIT", **sizes, **properties})
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)
    return path


# ---- what is served


def test_the_wave_files_of_a_folder(tmp_path, caplog):
    make_model(tmp_path / "a" / "half_wave.onnx")
    make_model(tmp_path / "b" / "half_wave.onnx")
    make_model(tmp_path / "other.onnx", latency="0", system="Half")
    make_model(tmp_path / "spectrum.onnx", kind="spectrum")
    models = serving.find([tmp_path])
    assert [model["name"] for model in models] == ["a/half", "b/half", "other"]
    assert models[2] | {"path": None, "bytes": None} == {
        "name": "other", "path": None, "bytes": None, "system": "Half", "licence": "MIT", "origin": "unknown",
        "sample_rate": 16000, "hop_length": HOP, "latency": 0, "input": "input", "output": "output",
        "states": [{"input": "state", "output": "next_state", "shape": [1, HOP]}],
    }  # fmt: skip
    assert "spectrum.onnx" in caplog.text and "format=onnx_wave" in caplog.text


@pytest.mark.parametrize(
    ("properties", "message"),
    [
        ({"kind": "spectrum"}, "its kind is spectrum"),
        ({"latency": "soon"}, "latency=soon: must be a whole number"),
        ({"hop_length": "128"}, "not those its metadata promises"),
    ],
)
def test_other_files_are_refused(tmp_path, properties, message):
    with pytest.raises(UserError, match=message):
        serving.find([make_model(tmp_path / "model.onnx", **properties)])


def test_what_is_no_model_is_refused(tmp_path):
    (tmp_path / "noise.onnx").write_bytes(b"noise")
    with pytest.raises(UserError, match="noise.onnx: damaged"):
        serving.find([tmp_path / "noise.onnx"])
    with pytest.raises(UserError, match="nowhere: no such file"):
        serving.find([tmp_path / "nowhere"])
    with pytest.raises(UserError, match="no wave file there"):
        serving.find([tmp_path])


def test_npm_that_fails_is_told_in_a_line(tmp_path, monkeypatch):
    monkeypatch.setattr(serving, "NPM", tmp_path / "npm's")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="npm can't be run in .*; install Node.js with npm"):
        serving.install()
    (tmp_path / "npm").write_text("#!/bin/sh\necho npm error code ENOTFOUND >&2\nexit 1\n")
    (tmp_path / "npm").chmod(0o755)
    with pytest.raises(UserError, match="npm error code ENOTFOUND"):
        serving.install()


# ---- to whom


@pytest.fixture
def serve():
    """A running server of these files."""
    servers = []

    def run(*paths: Path, port: int = 0, attenuation_limit_db: float | None = None) -> serving.Server:
        servers.append(serving.Server(serving.find(paths), port, attenuation_limit_db))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return servers[-1]

    yield run
    for server in servers:
        server.shutdown()
        server.server_close()


def get(server: serving.Server, path: str, host: str | None = None) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port)
    connection.request("GET", path, headers={"Host": host} if host else {})
    return connection.getresponse()


def test_only_the_page_and_these_models_are_served(tmp_path, serve):
    path = make_model(tmp_path / "half.onnx")
    (tmp_path / "secret.onnx").write_bytes(b"secret")
    server = serve(path)
    assert server.server_address[0] == "127.0.0.1"
    for address, kind in (("/", "text/html"), ("/page.js", "text/javascript"), ("/style.css", "text/css")):
        response = get(server, address)
        assert response.status == 200 and response.headers["Content-Type"].startswith(kind)
        assert response.headers["Content-Security-Policy"].startswith("default-src 'none'; script-src 'self'")
    (model,) = json.loads(get(server, "/page.json").read())["models"]
    assert str(tmp_path) not in json.dumps(model)
    assert get(server, f"/{model['url']}").read() == path.read_bytes()
    outside = (
        f"/..{tmp_path}/secret.onnx",
        "/../serving.py",
        "/%2e%2e/serving.py",
        "/package.json",
        "/models/1.onnx",
        "//[",
    )
    assert [get(server, address).status for address in outside] == [404] * len(outside)


def test_other_names_of_this_machine_are_refused(tmp_path, serve):
    server = serve(make_model(tmp_path / "half.onnx"))
    hosts = {
        "localhost": 200,
        f"127.0.0.1:{server.server_port}": 200,
        "evil.example": 403,
        "127.0.0.1.evil.example:80": 403,
    }
    assert {host: get(server, "/page.json", host).status for host in hosts} == hosts


def test_another_port_where_it_is_taken(tmp_path, serve, caplog):
    first = serve(make_model(tmp_path / "half.onnx"))
    second = serve(tmp_path / "half.onnx", port=first.server_port)
    assert second.server_port != first.server_port and get(second, "/").status == 200
    assert f"port={first.server_port}: Address already in use" in caplog.text


def say(server: serving.Server, *lines: str) -> socket.socket:
    connection = socket.create_connection(server.server_address, timeout=20)
    connection.sendall("\r\n".join((*lines, "")).encode())
    return connection


def answer(connection: socket.socket) -> str:
    """All that comes until the server closes the connection; a timeout is a failure."""
    with connection, connection.makefile("rb") as file:
        return file.read().decode()


def test_error_pages_are_kept_at_home_like_the_page(tmp_path, serve):
    server = serve(make_model(tmp_path / "half.onnx"))
    wanted = get(server, "/").headers["Content-Security-Policy"]
    post = say(server, "POST / HTTP/1.1", "Host: localhost", "")
    pages = [get(server, "/<script>"), get(server, "/", "evil.example")]
    assert [page.status for page in pages] == [404, 403]
    assert all(page.headers["Content-Security-Policy"] == wanted for page in pages)
    assert f"Content-Security-Policy: {wanted}" in answer(post)


@pytest.mark.parametrize("header", ["Content-Length: 42", "Transfer-Encoding: chunked"])
def test_the_body_of_a_request_is_no_request(tmp_path, serve, header):
    server = serve(make_model(tmp_path / "half.onnx"))
    hidden = "GET /page.json HTTP/1.1", "Host: localhost", ""
    heard = answer(say(server, "GET / HTTP/1.1", "Host: localhost", header, "", *hidden))
    assert heard.startswith("HTTP/1.1 400") and heard.count("HTTP/1.1 ") == 1


def test_who_says_nothing_is_not_waited_for(tmp_path, serve, monkeypatch):
    assert serving._Handler.timeout, "seconds"
    monkeypatch.setattr(serving._Handler, "timeout", 0.2)
    server = serve(make_model(tmp_path / "half.onnx"))
    assert answer(say(server)) == answer(say(server, "GET / HTTP/1.1", "Host: loc")) == ""


def test_connections_are_bounded(tmp_path, serve, monkeypatch, caplog):
    monkeypatch.setattr(serving, "_CONNECTIONS", 2)
    server = serve(make_model(tmp_path / "half.onnx"))
    waiting = [say(server) for _ in range(2)]
    until(lambda: not server.free._value)
    with pytest.raises((ConnectionError, http.client.BadStatusLine)):
        get(server, "/")
    assert "more than 2 connections at once" in caplog.text
    for connection in waiting:
        connection.close()
    until(lambda: server.free._value == 2)
    assert get(server, "/").status == 200


# ---- what the page does


@pytest.fixture
def browse(tmp_path):
    """Opens Chromium on a server's page; what is downloaded lands in tmp_path/downloads."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="the page's test needs selenium")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (chromium and driver):
        pytest.skip("the page's test needs chromium and chromedriver")
    if not serving.is_installed():
        pytest.skip("the page's test needs onnxruntime-web, which task=serve installs")
    opened = []

    def run(server: serving.Server, *arguments: str):
        options = webdriver.ChromeOptions()
        options.binary_location = chromium
        quiet = "disable-background-networking", "disable-component-update", "disable-sync", "no-first-run"
        profile = f"user-data-dir={tmp_path / f'profile{len(opened)}'}"
        for argument in (
            "headless=new",
            "no-sandbox",
            "disable-gpu",
            "disable-dev-shm-usage",
            *quiet,
            profile,
            *arguments,
        ):
            options.add_argument(f"--{argument}")
        options.add_experimental_option("prefs", {"download.default_directory": str(tmp_path / "downloads")})
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
        opened.append(browser)
        browser.get(server.url)
        until(lambda: browser.find_elements("css selector", ".model"))
        return browser

    yield run
    for browser in opened:
        browser.quit()


def until(condition, seconds: float = 120):
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "the page did not come so far"
        time.sleep(0.05)
    return value


def panels(browser) -> list[str]:
    """What the panels say, one for before and one for each model."""
    return [panel.text for panel in browser.find_elements("css selector", "article")]


def message(browser) -> str:
    return browser.find_element("id", "message").text


def drop(browser, path: Path) -> None:
    browser.find_element("id", "file").send_keys(str(path))


def downloaded(browser, panel: int, path: Path) -> np.ndarray:
    link = browser.find_elements("css selector", "article a")[panel]
    browser.execute_script("arguments[0].scrollIntoView({ block: 'center' })", link)
    link.click()
    until(path.is_file)
    return soundfile.read(path, dtype="float32")[0]


def test_a_recording_as_in_python(tmp_path, recordings, exported, serve, browse):
    dtln = exported("dtln", "onnx_wave")
    half = make_model(tmp_path / "half.onnx")
    recording = recordings / "vctk_demand_mini" / "noisy" / "p287_001.wav"
    server = serve(dtln, half)
    browser = browse(server)
    script = browser.execute_script
    drop(browser, recording)
    until(lambda: len(panels(browser)) == 2)
    assert "ms of 8 ms" in panels(browser)[1] and "real time" in panels(browser)[1]

    noisy = soundfile.read(recording, dtype="float32")[0]
    denoiser = Denoiser(dtln)
    late = denoiser.process(np.pad(noisy, (0, denoiser.latency + denoiser.hop_length)))
    enhanced = downloaded(browser, 0, tmp_path / "downloads" / "p287_001_dtln.wav")
    assert len(enhanced) == len(noisy)
    assert np.abs(enhanced - late[denoiser.latency :][: len(noisy)]).max() <= 1e-3

    # another model, heard at the same place
    browser.find_element("id", "play").click()
    until(lambda: float(browser.find_element("id", "seek").get_attribute("value")) > 0.1)
    browser.find_elements("css selector", ".model")[1].click()
    until(lambda: len(panels(browser)) == 3)
    browser.find_element("id", "play").click()
    assert float(browser.find_element("id", "seek").get_attribute("value")) > 0.1
    pressed = "return document.querySelector('#choices [aria-pressed=true]').textContent"
    assert script(pressed) == "3half"
    browser.find_element("tag name", "body").send_keys("1")
    assert script(pressed) == "1Before"
    enhanced = downloaded(browser, 1, tmp_path / "downloads" / "p287_001_half.wav")
    assert np.abs(enhanced - noisy / 2).max() <= 1e-3

    for width in (390, 1366):
        size = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 500}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        assert script("return document.documentElement.scrollWidth") <= width
    assert not browser.get_log("browser")
    events = (json.loads(entry["message"])["message"] for entry in browser.get_log("performance"))
    sent = {event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"}
    fetched = {url for url in sent if url.startswith(("http", "ws"))}  # not the browser's own pages
    assert server.url in fetched and all(url.startswith(server.url) for url in fetched)


def test_what_goes_wrong_is_told(tmp_path, serve, browse):
    half, gone = (make_model(tmp_path / f"{name}.onnx") for name in ("half", "gone"))
    server = serve(half, gone)
    gone.unlink()
    browser = browse(server, "deny-permission-prompts")
    (tmp_path / "garbage.wav").write_bytes(b"RIFF garbage")
    (tmp_path / "empty.wav").touch()
    soundfile.write(tmp_path / "silent.wav", np.zeros(16000), 16000)
    soundfile.write(tmp_path / "nan.wav", np.full(16000, np.nan), 16000, subtype="FLOAT")
    reasons = {"garbage": "can't be decoded", "empty": "is empty", "silent": "is silent", "nan": "are no numbers"}
    for name, reason in reasons.items():
        drop(browser, tmp_path / f"{name}.wav")
        until(lambda name=name, reason=reason: f"{name}.wav" in message(browser) and reason in message(browser))
        assert not panels(browser)

    # 44.1 kHz, two channels
    stereo = np.stack([0.2 * TONE, 0.4 * TONE], axis=1)
    soundfile.write(tmp_path / "stereo.flac", stereo, 44100)
    drop(browser, tmp_path / "stereo.flac")
    until(lambda: len(panels(browser)) == 2)
    assert not message(browser)
    enhanced = downloaded(browser, 0, tmp_path / "downloads" / "stereo_half.wav")
    assert len(enhanced) == pytest.approx(16000 * 16000 / 44100, abs=1)
    assert np.abs(enhanced).max() == pytest.approx(0.5 * 0.3 * 0.5, rel=0.02)

    browser.find_elements("css selector", ".model")[1].click()
    until(lambda: "gone can't be used here: the server no longer has its file" in message(browser))
    browser.find_element("id", "speak").click()
    until(lambda: "microphone" in message(browser))
    assert browser.find_element("id", "speak").text == "Speak"


def test_speaking(tmp_path, serve, browse):
    soundfile.write(tmp_path / "spoken.wav", np.tile(TONE, 5), 16000)
    microphone = "use-fake-device-for-media-stream", "use-fake-ui-for-media-stream"
    browser = browse(
        serve(make_model(tmp_path / "half.onnx")), *microphone, f"use-file-for-fake-audio-capture={tmp_path}/spoken.wav"
    )
    browser.find_element("id", "hear").click()
    browser.find_element("id", "speak").click()
    pace = browser.find_element("id", "pace")
    until(lambda: "ms per hop" in pace.text)
    until(lambda: float(browser.find_element("id", "level").get_attribute("value")) > -10)
    browser.find_element("id", "speak").click()
    until(lambda: len(panels(browser)) == 2)
    enhanced = downloaded(browser, 0, tmp_path / "downloads" / "recording_half.wav")
    spectrum = np.abs(np.fft.rfft(enhanced))
    assert np.argmax(spectrum) * 16000 / len(enhanced) == pytest.approx(440, abs=5)
    assert np.abs(enhanced).max() == pytest.approx(0.25, rel=0.1)


HEARD = """
const [wave, shares, done] = arguments;
(async () => {
  const { models: [model] } = await (await fetch("page.json")).json();
  const worker = new Worker("worker.js", { type: "module" });
  const ask = (request, transfer) => new Promise(resolve => {
    worker.onmessage = ({ data }) => { if ("result" in data) resolve(); };
    worker.postMessage(request, transfer);
  });
  const { port1, port2 } = new MessageChannel();
  await ask({ id: 1, job: "stream", model, port: port1 }, [port1]);
  const heard = [];
  for (const [index, share] of shares.entries()) {
    await ask({ id: 2, job: "limit", share }, []);
    port2.postMessage(Float32Array.from(wave.slice(index * model.hop_length, (index + 1) * model.hop_length)));
    heard.push(...await new Promise(resolve => { port2.onmessage = ({ data }) => resolve(data); }));
  }
  done(heard);
})();
"""


def test_the_slider_leaves_some_of_the_noise(tmp_path, serve, browse):
    """The noisy signal is as late as the model's output, of a recording and of a microphone, which is heard at once."""
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 16000).astype(np.float32)
    soundfile.write(tmp_path / "noise.wav", noise, 16000, subtype="FLOAT")
    browser = browse(serve(make_model(tmp_path / "half.onnx"), attenuation_limit_db=12))
    assert browser.find_element("id", "limit-value").text == "12 dB"
    drop(browser, tmp_path / "noise.wav")
    until(lambda: len(panels(browser)) == 2)
    share = 10 ** (-12 / 20)
    half = (1 + share) / 2 * noise
    np.testing.assert_allclose(downloaded(browser, 0, tmp_path / "downloads/noise_half.wav"), half, atol=1e-6)
    browser.find_element("tag name", "body").send_keys("1")
    for value, shown, expected in ((0, "0 dB", noise), (60, "no limit", noise / 2)):
        panel = browser.find_elements("css selector", "article")[1]
        script = "const [slider, value] = arguments; slider.value = value; for (const name of ['input', 'change']) "
        browser.execute_script(
            script + "slider.dispatchEvent(new Event(name));", browser.find_element("id", "limit"), value
        )
        until(lambda panel=panel: browser.find_elements("css selector", "article")[1] != panel)
        assert browser.find_element("id", "limit-value").text == shown and len(panels(browser)) == 2
        wave = downloaded(browser, 0, tmp_path / f"downloads/noise_half ({1 + value // 60}).wav")
        np.testing.assert_allclose(wave, expected, atol=1e-6)
        assert browser.execute_script("return document.querySelector('article.active').ariaLabel") == "Before"

    shares = np.array([0.25, 0.25, 0.25, 1, 1, 0])
    heard = browser.execute_async_script(HEARD, noise[: 6 * HOP].tolist(), shares.tolist())
    late = np.pad(noise, (HOP, 0))[: 6 * HOP]
    mix = np.interp(np.arange(1, 6 * HOP + 1), HOP * np.arange(1, 7), shares)  # each hop moves to its own share
    mix[:HOP] = 0.25 * np.arange(1, HOP + 1) / HOP  # from none, as the stream began
    np.testing.assert_allclose(heard, mix * late + (1 - mix) * late / 2, atol=1e-6)
