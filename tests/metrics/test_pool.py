"""Many pairs have the reference scores, none is dropped, and files that do not fit are named before scoring."""

import math
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import numpy as np
import pandas as pd
import pytest
import soundfile

from gtcrn.errors import UserError
from gtcrn.metrics import METRICS, WavePair, score_pairs

RATE = 16000
NAMES = [f"p287_00{i}" for i in range(1, 7)]


def noise(seed: int, length: int = RATE) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).standard_normal(length)).astype(np.float32)


@pytest.mark.parametrize(
    "golden, expected",
    [
        ("gtcrn_dns3", {"pesq_wb": 1.5652, "stoi": 0.8033, "estoi": 0.6177, "si_snr": 9.5065}),
        ("light_v3_078", {"pesq_wb": 1.8937, "stoi": 0.8604, "estoi": 0.6843, "si_snr": 11.7786}),
    ],
)
def test_published_means(references, recordings, tmp_path, golden, expected):
    """All signals are read from files; the enhanced ones are float WAV."""
    folder = recordings / "vctk_demand_mini"
    pairs = []
    for name in NAMES:
        enhanced = tmp_path / f"{name}.wav"
        soundfile.write(enhanced, np.load(references / "golden" / golden / f"{name}.npy"), RATE, "FLOAT")
        pairs.append(WavePair(name, folder / "clean" / enhanced.name, enhanced, folder / "noisy" / enhanced.name))
    scores = score_pairs(pairs, list(expected), workers=2, progress=False)
    assert list(scores["name"]) == NAMES and (scores["failures"] == "").all()
    noisy = {"pesq_wb": 1.4128, "stoi": 0.8335, "estoi": 0.6110, "si_snr": 8.2012}
    tolerance = {"pesq_wb": 0.005, "stoi": 0.001, "estoi": 0.001, "si_snr": 0.02}
    for metric in expected:
        assert scores[f"noisy_{metric}"].mean() == pytest.approx(noisy[metric], abs=tolerance[metric])
        assert scores[f"enhanced_{metric}"].mean() == pytest.approx(expected[metric], abs=tolerance[metric])


def test_nothing_is_dropped_and_processes_agree_with_one():
    pairs = [
        WavePair("good", noise(0), noise(0) + noise(1), noise(2), info={"snr": 5.0}),
        WavePair("silent", noise(0) * 0, noise(1), noise(2), info={"snr": 0.0}),
        WavePair("short", noise(0)[:99], noise(1)[:99], noise(2)[:99], info={"snr": -5.0}),
    ]
    metrics = ["si_sdr", "pesq_nb", "estoi"]
    scores = score_pairs(pairs, metrics, sample_rate=RATE, workers=2, progress=False)
    assert list(scores["name"]) == ["good", "silent", "short"]
    assert list(scores["snr"]) == [5, 0, -5]
    assert [math.isnan(value) for value in scores["enhanced_pesq_nb"]] == [False, True, True]
    assert scores["failures"][0] == ""
    assert "noisy_si_sdr: silent reference; " in scores["failures"][1]
    assert "enhanced_pesq_nb: Buffer needs" in scores["failures"][2]
    alone = score_pairs(pairs, metrics, sample_rate=RATE, workers=1, progress=False)
    pd.testing.assert_frame_equal(alone, scores, rtol=1e-12)


def test_pairs_are_scored_while_the_next_one_is_made(tmp_path, monkeypatch):
    scored, threads = tmp_path / "scored", set()

    def leave_a_trace(clean: np.ndarray, enhanced: np.ndarray, sample_rate: int) -> float:
        scored.touch()
        return 1.0

    def made() -> Iterator[WavePair]:
        for number in range(6):
            threads.add(threading.current_thread())  # torch's settings are those of a thread
            deadline = time.monotonic() + 60
            while number == 5 and not scored.exists() and time.monotonic() < deadline:
                time.sleep(0.05)
            yield WavePair(f"{number}, {scored.exists()}", noise(0), noise(number))

    monkeypatch.setitem(METRICS, "trace", METRICS["stoi"]._replace(function=leave_a_trace))
    names = list(score_pairs(made(), ["trace"], sample_rate=RATE, workers=2, progress=False, count=6)["name"])
    assert [name[0] for name in names] == list("012345") and names[5] == "5, True"
    assert threads == {threading.main_thread()}


def test_noisy_is_optional_and_lengths_may_differ_by_10_ms():
    scores = score_pairs(
        [WavePair("a", noise(0), noise(0)[: RATE - 160])], ["si_sdr"], sample_rate=RATE, workers=1, progress=False
    )
    assert scores["enhanced_si_sdr"][0] > 100
    assert "noisy_si_sdr" not in scores


def test_pairs_with_and_without_a_clean_signal_side_by_side():
    pairs = [
        WavePair("with", noise(0), noise(0) + noise(1), noise(2)),
        WavePair("without", None, noise(1), noise(2)[:-9]),
    ]
    scores = score_pairs(pairs, ["si_sdr"], sample_rate=RATE, workers=1, progress=False)
    assert list(scores["enhanced_si_sdr"].isna()) == list(scores["noisy_si_sdr"].isna()) == [False, True]
    assert list(scores["failures"]) == [
        "",
        "noisy_si_sdr: no clean reference; enhanced_si_sdr: no clean reference",
    ]


@pytest.fixture
def files(tmp_path):
    def write(name: str, wave: np.ndarray, rate: int = RATE) -> str:
        soundfile.write(tmp_path / name, wave, rate)
        return str(tmp_path / name)

    return write


@pytest.mark.parametrize(
    "make, complaint",
    [
        (lambda write: write("bad.wav", noise(1), 48000), "48000 Hz"),
        (lambda write: write("bad.wav", noise(1)[: RATE - 161]), "15839 samples"),
        (lambda write: write("bad.wav", np.stack([noise(1)] * 2, axis=1)), "2 channels"),
        (lambda write: write("good.wav", noise(1)).replace("good", "bad"), "no such file"),
        (lambda write: __file__, "not a readable audio file"),
    ],
)
def test_files_that_do_not_fit_are_named(files, make, complaint):
    clean, enhanced = files("clean.wav", noise(0)), make(files)
    with pytest.raises(UserError, match=complaint) as error:
        score_pairs([WavePair("p", clean, enhanced)], ["si_sdr"], workers=1, progress=False)
    assert enhanced in str(error.value)
    with pytest.raises(UserError, match=complaint):
        score_pairs([WavePair("p", clean, clean, noisy=enhanced)], ["si_sdr"], workers=1, progress=False)
    with pytest.raises(UserError, match=complaint) as error:
        score_pairs([WavePair("p", None, clean, noisy=enhanced)], ["si_sdr"], workers=1, progress=False)
    assert enhanced in str(error.value)


def test_arrays_need_a_rate_and_one_channel():
    with pytest.raises(UserError, match="p .clean. is an array: give its sample_rate"):
        score_pairs([WavePair("p", noise(0), noise(1))])
    with pytest.raises(UserError, match="mono"):
        score_pairs([WavePair("p", noise(0)[None], noise(1)[None])], sample_rate=RATE)


def test_works_from_a_script_without_main_guard_and_without_torch(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import sys, numpy as np\n"
        "from gtcrn.metrics import METRICS, WavePair, score_pairs\n"
        "wave = np.random.default_rng(0).standard_normal(16000) * 0.1\n"
        "pairs = [WavePair(str(i), wave, wave + 0.1 * wave[::-1]) for i in range(3)]\n"
        "print(len(score_pairs(pairs, ['si_sdr'], sample_rate=16000, workers=2)))\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "3"
