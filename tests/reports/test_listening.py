"""The page: what is embedded in it, which files it shows, what it leaves out, and that it plays."""

import base64
import io
import json
import re
import shutil
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
from PIL import Image

from gtcrn.data import audio
from gtcrn.errors import UserError
from gtcrn.plots.palette import BLUE, ORANGE, VERMILLION
from gtcrn.reports.listening import write_page
from gtcrn.reports.runs import recording

RATE = 16000


def tone(amplitude: float, rate: int = RATE, seconds: float = 0.5) -> np.ndarray:
    return (amplitude * np.sin(2 * np.pi * 440 / rate * np.arange(round(seconds * rate)))).astype(np.float32)


def make_run(
    folder: Path, scores: dict[str, float], rate: int = RATE, seconds: float = 0.5, roles=("noisy", "clean"), noisy=1.0
) -> Path:
    """A finished evaluation with PESQ as given."""
    for name in scores:
        audio.write(folder / "enhanced" / f"{name}.wav", tone(0.3, rate, seconds), rate, subtype="FLOAT")
        for role in roles:
            audio.write(folder / role / f"{name}.flac", tone(0.5, rate, seconds), rate)
    rows = [
        {"name": name, "snr": 5.0, "noisy_pesq_wb": noisy, "enhanced_pesq_wb": score, "failures": ""}
        for name, score in scores.items()
    ]
    pd.DataFrame(rows).to_csv(folder / "scores.csv", index=False)
    (folder / "summary.json").write_text(json.dumps({"enhanced_pesq_wb": 1.0}))
    return folder


def content(page: Path) -> dict:
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page.read_text("utf-8"), re.S)
    return json.loads(data)


def decoded(clip: dict) -> tuple[np.ndarray, int]:
    return soundfile.read(io.BytesIO(base64.b64decode(clip["audio"])), dtype="int16")


def names(page: dict) -> list[str]:
    return [utterance["name"] for utterance in page["utterances"]]


def test_audio_is_the_same_at_16_bits(tmp_path):
    run = make_run(tmp_path / "run", {"a": 2.0})
    noise = np.random.default_rng(0).integers(-32768, 32768, RATE // 2, dtype=np.int16)
    soundfile.write(run / "noisy" / "a.wav", noise, RATE)  # before the .flac of the same name
    loud = tone(1.5)
    audio.write(run / "enhanced" / "a.wav", loud, RATE, subtype="FLOAT")

    (utterance,) = content(write_page({"model": run}, tmp_path / "page.html"))["utterances"]
    noisy, enhanced, clean = utterance["clips"]
    samples, rate = decoded(noisy)
    assert rate == RATE and np.array_equal(samples, noise) and not noisy["flaw"]
    assert np.array_equal(decoded(enhanced)[0], np.clip(np.rint(loud * 32768), -32768, 32767))
    assert "clipped" in enhanced["flaw"]
    assert np.array_equal(decoded(clean)[0], soundfile.read(run / "clean" / "a.flac", dtype="int16")[0])


def test_pictures_have_one_size_and_a_lower_rate_fills_the_lower_part(tmp_path):
    runs = {"low": make_run(tmp_path / "low", {"a": 2.0}), "high": make_run(tmp_path / "high", {"a": 2.1}, 3 * RATE)}
    (utterance,) = content(write_page(runs, tmp_path / "page.html"))["utterances"]
    images = [Image.open(io.BytesIO(base64.b64decode(clip["picture"]))) for clip in utterance["clips"]]
    assert [clip["rate"] for clip in utterance["clips"]] == [3 * RATE, RATE, 3 * RATE, 3 * RATE]
    assert utterance["hertz"] == 1.5 * RATE
    assert {image.width for image in images} == {63} and [image.height for image in images] == [192, 64, 192, 192]
    for image in images:  # the tone of 440 Hz is the brightest line, at the same height from below
        bright = np.asarray(image.convert("L"), float)[:, 10:-10].mean(axis=1)
        assert image.height - 1 - bright.argmax() == pytest.approx(440 / (1.5 * RATE) * 192, abs=1.5)


def test_worst_middle_and_best_are_shown(tmp_path):
    scores = {f"f{number:02d}": 1 + number / 10 for number in range(20)}
    shuffled = dict(sorted(scores.items(), key=lambda item: item[0][::-1]))
    run = make_run(tmp_path / "run", shuffled, seconds=0.05)
    page = content(write_page({"model": run}, tmp_path / "page.html", files=5))
    places = [(utterance["name"], utterance["rank"]) for utterance in page["utterances"]]
    assert places == [("f00", "worst"), ("f01", "worst"), ("f09", "middle"), ("f18", "best"), ("f19", "best")]
    assert page["files"] == 20
    assert page["models"][1]["values"]["pesq_wb"] == pytest.approx(np.mean(list(scores.values())))

    for files in (1, 2, 3, 19):
        assert len(set(names(content(write_page({"model": run}, tmp_path / "page.html", files=files))))) == files
    everything = content(write_page({"model": run}, tmp_path / "page.html", files=20))
    assert names(everything) == sorted(scores) and not any(u["rank"] for u in everything["utterances"])


def test_a_file_without_a_score_is_the_worst_and_in_no_mean(tmp_path):
    run = make_run(tmp_path / "run", {"a": 2.0, "silent": np.nan, "b": 3.0}, seconds=0.05)
    audio.write(run / "enhanced" / "silent.wav", np.full(800, np.nan, np.float32), RATE, subtype="FLOAT")
    other = make_run(tmp_path / "other", {"a": 1.0, "silent": 4.0, "b": 2.0}, seconds=0.05)
    page = content(write_page({"model": run, "other": other}, tmp_path / "page.html"))
    assert names(page) == ["silent", "a", "b"]
    silent = page["utterances"][0]
    assert silent["scores"]["pesq_wb"] == [1.0, None, 4.0]
    assert "NaN" in silent["clips"][1]["flaw"] and not decoded(silent["clips"][1])[0].any()
    assert [model["values"]["pesq_wb"] for model in page["models"]] == [1.0, 2.5, 1.5]
    assert any("1 of 3 files lack a score" in note for note in page["notes"])


def test_long_clips_are_cut(tmp_path):
    run = make_run(tmp_path / "run", {"a": 2.0}, seconds=16)
    (utterance,) = content(write_page({"model": run}, tmp_path / "page.html"))["utterances"]
    assert (utterance["seconds"], utterance["whole"]) == (15, 16)
    assert {len(decoded(clip)[0]) for clip in utterance["clips"]} == {15 * RATE}


def test_gains_bring_all_signals_to_one_level_without_clipping(tmp_path):
    run = make_run(tmp_path / "run", {"a": 2.0, "loud": 1.5})
    audio.write(run / "enhanced" / "a.wav", np.zeros(RATE // 2, np.float32), RATE)
    clicks = np.zeros(RATE // 2, np.float32)
    clicks[::1000] = 0.99
    audio.write(run / "enhanced" / "loud.wav", clicks, RATE)
    loud, silent = content(write_page({"model": run}, tmp_path / "page.html"))["utterances"]
    for utterance in (loud, silent):
        gains = [clip["gain"] for clip in utterance["clips"]]
        levels = [
            gain * np.sqrt(np.mean((decoded(clip)[0] / 32768) ** 2)) for gain, clip in zip(gains, utterance["clips"])
        ]
        peaks = [gain * np.abs(decoded(clip)[0] / 32768).max() for gain, clip in zip(gains, utterance["clips"])]
        assert max(peaks) <= 1.001 and np.isfinite(gains).all()
        if utterance is loud:
            assert levels == pytest.approx([levels[0]] * 3, rel=0.01) and gains[0] < 1, "the clicks would clip"
        else:
            assert gains[0] == gains[2] == 1, "silence has no level"


def test_the_title_is_the_question_and_colours_are_the_palette(tmp_path):
    run = make_run(tmp_path / "run", {"a": 2.0})
    one = write_page({"model": run}, tmp_path / "page.html")
    two = write_page({"model": run, "other": run}, tmp_path / "pages.html")
    assert content(one)["title"] == "Does the model make these sound better?"
    assert content(two)["title"] == "Which of these 2 models sounds best?"
    assert all(colour in one.read_text("utf-8") for colour in (BLUE, VERMILLION, ORANGE))


def test_names_are_only_text(tmp_path):
    evil = "<img src=x onerror=alert(1)>", "</script><script>alert(2)<!--", "\"&'{{data}}"
    run = make_run(tmp_path / "run", {evil[0]: 2.0, "NA": 1.0, "007": 1.5}, seconds=0.05)
    page = write_page({evil[1]: run}, tmp_path / "page.html", title=evil[2])
    assert all(text not in page.read_text("utf-8") for text in ("<img src", "</script><script>alert"))
    assert names(content(page)) == ["NA", "007", evil[0]]
    assert content(page)["conditions"] == ["noisy", evil[1], "clean"] and content(page)["title"] == evil[2]


def test_nothing_is_fetched(tmp_path):
    page = write_page({"model": make_run(tmp_path / "run", {"a": 2.0})}, tmp_path / "new" / "page.html")
    text = page.read_text("utf-8").replace("http://www.w3.org/2000/svg", "")  # a name, not an address
    assert "default-src 'none'" in text and "{{" not in text
    assert not re.search(r"https?://|\bfetch\(|XMLHttpRequest|@import|url\(", text)


def test_without_noisy_and_clean_the_models_are_heard(tmp_path):
    run = make_run(tmp_path / "run", {"a": 2.0}, roles=())
    page = content(write_page({"model": run}, tmp_path / "page.html"))
    assert [clip["condition"] for clip in page["utterances"][0]["clips"]] == [1]
    assert [role for role in ("noisy", "clean") if any(f"no run has a folder {role}" in n for n in page["notes"])] == [
        "noisy",
        "clean",
    ]


def test_only_what_all_runs_have_is_compared(tmp_path):
    runs = {
        "one": make_run(tmp_path / "one", {"a": 2.0, "b": 3.0, "c": 1.0}),
        "two": make_run(tmp_path / "two" / "test", {"b": 2.5, "c": 1.5, "d": 4.0}, noisy=1.4).parent,
    }
    (tmp_path / "two" / "test" / "summary.json").rename(tmp_path / "two" / "summary.json")
    cost = {"parameters_trainable": 5540, "mmacs_exact": 12.9, "latency_ms": 32.0, "lookahead_ms": 0.0}
    (tmp_path / "two" / "summary.json").write_text(json.dumps({"cost": cost}))
    page = content(write_page(runs, tmp_path / "page.html"))
    assert names(page) == ["c", "b"]
    assert [model["values"]["pesq_wb"] for model in page["models"]] == [1.0, 2.0, 2.0]
    assert page["models"][2]["values"].items() >= cost.items() and page["models"][1]["values"]["mmacs_exact"] is None
    assert any(note.startswith("2 test files that only some") for note in page["notes"])
    assert any(note.startswith("Not the same input") and "of 2 files" in note for note in page["notes"])

    make_run(tmp_path / "three", {"z": 1.0})
    with pytest.raises(UserError, match="no test file is common"):
        write_page({"one": tmp_path / "one", "three": tmp_path / "three"}, tmp_path / "page.html")


def test_runs_that_cannot_be_shown_are_left_out(tmp_path, caplog):
    good = make_run(tmp_path / "good", {"a": 2.0})
    failed, unfinished, untested, silent, broken = (
        make_run(tmp_path / name, {"a": 2.0}) for name in ("failed", "unfinished", "untested", "silent", "broken")
    )
    (failed / "summary.json").unlink()
    (failed / "error.txt").write_text("out of memory\nTraceback …")
    (unfinished / "summary.json").unlink()
    (untested / "scores.csv").unlink()
    shutil.rmtree(silent / "enhanced")
    (broken / "summary.json").write_text('{"cost": {')
    bad = {run.name: run for run in (failed, unfinished, untested, silent, broken, tmp_path / "missing")}

    page = content(write_page({"good": good, **bad}, tmp_path / "page.html"))
    assert page["conditions"] == ["noisy", "good", "clean"]
    for name, reason in zip(
        bad, ("failed: out of memory", "not finished", "no scores.csv", "no enhanced audio", "broken", "not finished")
    ):
        (note,) = (note for note in page["notes"] if f"run {name} " in note)
        assert reason in note and "\n" not in note
        assert f"left out {name}" in caplog.text
    with pytest.raises(UserError, match="out of memory"):
        write_page({"failed": failed}, tmp_path / "page.html")
    with pytest.raises(UserError, match="no runs"):
        write_page({}, tmp_path / "page.html")


def test_mistakes_are_named(tmp_path):
    run = make_run(tmp_path / "run", {"a": 2.0})
    for wrong, message in (
        ({"files": 0}, "files=0: must be 1 or more"),
        ({"metric": "stoi"}, "metric=stoi: not scored in these runs; choose from pesq_wb"),
        ({"path": run}, "can't be written"),
    ):
        with pytest.raises(UserError, match=re.escape(message)):
            write_page(**{"runs": {"model": run}, "path": tmp_path / "page.html"} | wrong)
    for spoil, message in (
        (lambda file: audio.write(file, tone(0.1, seconds=1), RATE), "clean/a.flac: 1.00 s, but .* has 0.50 s"),
        (lambda file: audio.write(file, np.zeros((8000, 2), np.float32), RATE), "clean/a.flac: 2 channels"),
        (lambda file: file.write_bytes(b"garbage"), "clean/a.flac: not readable as audio"),
    ):
        spoil(run / "clean" / "a.flac")
        with pytest.raises(UserError, match=message):
            write_page({"model": run}, tmp_path / "page.html")


def test_real_recordings_stay_small(tmp_path, recordings):
    corpus = recordings / "vctk_demand_mini"
    run = make_run(tmp_path / "run", {file.stem: 1.0 for file in (corpus / "noisy").glob("*.wav")}, roles=())
    for role, source in (("enhanced", "noisy"), ("noisy", "noisy"), ("clean", "clean")):
        (run / role).mkdir(exist_ok=True)
        for file in (corpus / source).iterdir():
            shutil.copyfile(file, run / role / file.name)
    page = write_page({"model": run}, tmp_path / "page.html")
    utterances = content(page)["utterances"]
    for utterance in utterances:
        source = soundfile.read(corpus / "noisy" / f"{utterance['name']}.wav", dtype="int16")[0]
        assert np.array_equal(decoded(utterance["clips"][0])[0], source)
    seconds = sum(utterance["seconds"] * len(utterance["clips"]) for utterance in utterances)
    assert page.stat().st_size / seconds < 30e6 / (12 * 6 * 4)


@pytest.fixture
def browser():
    webdriver = pytest.importorskip("selenium.webdriver", reason="the browser test needs selenium")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (chromium and driver):
        pytest.skip("the browser test needs chromium and chromedriver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    with webdriver.Chrome(options=options, service=webdriver.ChromeService(driver)) as opened:
        yield opened


def test_in_a_browser(tmp_path, browser):
    evil = "<img src=x onerror=alert(1)>"
    runs = {
        "one": make_run(tmp_path / "one", {evil: 2.0, "b": 3.0}, seconds=4),
        "two": make_run(tmp_path / "two", {evil: 2.5, "b": 1.0}, 48000, seconds=4, roles=()),
    }
    rows = [["noisy", "-1.00 [-1.1, -0.9]"], [evil, ""]]
    compared = {
        "title": "Compared",
        "sentences": [evil],
        "tables": [[["PESQ-wb", "difference"], rows]],
        "notes": [evil],
    }
    page = write_page(runs, tmp_path / "page.html", compared=compared)
    browser.get(page.as_uri())
    script = browser.execute_script
    cells = (
        "return [...document.querySelectorAll('#comparisons tr')].map(row => [...row.children].map(c => c.textContent))"
    )
    assert script(cells) == [["PESQ-wb", "difference"], *rows]
    assert (
        script("return byId('sentences').textContent") == evil and browser.find_element("id", "compared").is_displayed()
    )
    press = browser.find_element("tag name", "body").send_keys

    titles = "return [...document.querySelectorAll('article:not([hidden]) h3')].map(title => title.textContent)"
    assert script(titles) == ["b", evil]
    browser.find_element("id", "filter").send_keys("IMG")
    assert script(titles) == [evil]
    script("document.activeElement.blur(); byId('filter').value = ''; arrange()")

    _, pesq = browser.find_elements("css selector", "#models th button")
    models = "return [...document.querySelectorAll('#models tbody th')].map(name => name.textContent)"
    pesq.click()
    assert script(models) == ["one", "two", "noisy"]
    pesq.click()
    assert script(models) == ["noisy", "two", "one"]

    press(" ")
    deadline = time.monotonic() + 10
    while script("return player.time") < 0.1:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    moved = script(
        """
        const { run } = player, before = player.time, clock = context.currentTime;
        document.body.dispatchEvent(new KeyboardEvent("keydown", { key: "4", bubbles: true }));
        return [player.time - before - (context.currentTime - clock), run === player.run, player.condition];
        """
    )
    assert abs(moved[0]) < 0.05 and moved[1:] == [True, 2]  # at the same place, and nothing was started anew
    press(" ")
    assert not script("return player.playing") and script("return player.time") > 0.1
    for width in (390, 1366):
        size = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 500}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        assert script("return document.documentElement.scrollWidth") <= width

    assert not browser.get_log("browser")
    events = (json.loads(entry["message"])["message"] for entry in browser.get_log("performance"))
    sent = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
    assert page.as_uri() in sent and all(url == page.as_uri() or url.startswith("data:image/") for url in sent)


def test_audio_outside_of_the_run_is_not_embedded(tmp_path):
    """A scores.csv may be anybody's, and so may a link in a run's folder."""
    soundfile.write(tmp_path / "secret.wav", np.zeros(16000), 16000)
    folder = tmp_path / "run/test/enhanced"
    folder.mkdir(parents=True)
    soundfile.write(folder / "inside.wav", np.zeros(16000), 16000)
    (folder / "link.wav").symlink_to(tmp_path / "secret.wav")
    assert recording(folder, "inside") == folder / "inside.wav"
    assert recording(folder, "../../../secret") is recording(folder, str(tmp_path / "secret")) is None
    assert recording(folder, "link") is None
    (tmp_path / "run/summary.json").write_text("{}")
    (tmp_path / "run/test/scores.csv").write_text("name,enhanced_stoi,failures\n../../../secret,0.5,\n")
    with pytest.raises(UserError, match="no enhanced audio of the files in scores.csv"):
        write_page({"a": tmp_path / "run"}, tmp_path / "page.html")


def test_a_blind_test_in_a_browser(tmp_path, browser):
    scores = {name: 2.0 for name in "abcdefgh"}
    runs = {"one": make_run(tmp_path / "one", scores), "two": make_run(tmp_path / "two", scores, roles=())}
    browser.get(write_page(runs, tmp_path / "page.html").as_uri())
    script = browser.execute_script
    body = browser.find_element("tag name", "body")
    panels = (
        "return cards.map(card => [...card.element.querySelectorAll('.listen .name')].map(name => name.textContent))"
    )
    assert script(panels) == [["noisy", "clean", "one", "two"]] * 8, "clean is never alone in a second row"
    assert not browser.find_element("id", "result").is_displayed()

    body.send_keys("l")
    assert script("return player.matched")
    script("Math.random = (() => { let seed = 1; return () => (seed = seed * 16807 % 2147483647) / 2147483647; })()")
    browser.find_element("id", "blind").send_keys("\n")
    assert script(panels) == [["clean", "A", "B", "C"]] * 8
    shown = "return document.body.innerText"
    for hidden in ("noisy", "PESQ-wb 2.00"):
        assert hidden not in script("return byId('cards').innerText + byId('player').innerText")
    orders = script("return cards.map(card => orderOf(card))")
    assert len({tuple(order) for order in orders}) > 1 and all(order[0] == 3 for order in orders)
    seen = script("return [...document.querySelectorAll('#cards img')].some(image => image.checkVisibility())")
    assert not seen, "a picture would give the name away"

    assert script("return player.condition") == 3  # clean, for which nobody can vote
    body.send_keys("v")
    assert script("return blind.votes.size") == 0
    for number, key in enumerate("234"):
        body.send_keys(key, "v", "n")
        assert script("return blind.votes.get(cards[arguments[0]])", number) == orders[number][int(key) - 1]
    assert "3 of 8 recordings judged" in script(shown) and "times the best" not in script(shown)

    browser.find_element("id", "blind").send_keys("\n")
    assert script(panels) == [["noisy", "clean", "one", "two"]] * 8
    names = ["noisy", "one", "two"]
    votes = [names[orders[number][number + 1]] for number in range(3)]
    rows = script(
        "return [...byId('counts').querySelectorAll('tbody tr')].map(row => [...row.children].map(c => c.textContent))"
    )
    assert {name: int(count) for name, count in rows} == {name: votes.count(name) for name in names}
    script("navigator.clipboard.writeText = async text => { window.copied = text; }")
    browser.find_element("id", "copy").send_keys("\n")
    copied = script("return window.copied").splitlines()
    assert copied[0] == "Which of these 2 models sounds best?"
    assert [line.split("\t")[1] for line in copied[-3:]] == votes
    assert not browser.get_log("browser")
