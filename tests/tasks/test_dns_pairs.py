"""data=dns_pairs from the command line, on mixtures of real recordings in the challenge's layout, and blind sets."""

import json
import logging
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fixtures.commands import run_command
from omegaconf import OmegaConf

import gtcrn
from gtcrn.data import audio
from gtcrn.data.speech import dns_pairs
from gtcrn.errors import UserError
from gtcrn.metrics import DNSMOS_METRICS
from gtcrn.tasks.evaluate import computable, evaluate_split, finished_pairs

SNRS = (0, 5, 10, 15)


@pytest.fixture
def corpus(tmp_path, recordings):
    """Write eight files of 2 s by four readers, named as the challenge's synthesiser does, and return the folder."""
    speech, rate = audio.read(recordings / "dns_mini" / "clean" / "clean_fileid_0.wav")
    noise, _ = audio.read(recordings / "dns_mini" / "noise" / "noise_fileid_0.wav")
    root = tmp_path / "corpus"
    for number in range(8):
        clean, noisy = (wave[number * 2 * rate :][: 2 * rate] for wave in (speech, noise))
        snr = SNRS[number % 4]
        noise_part = noisy * np.linalg.norm(clean) / np.linalg.norm(noisy) / 10 ** (snr / 20)
        name = f"book_00000_chp_0009_reader_0670{number // 2}_1_seg_1_seg1_snr{snr}_tl-27_fileid_{number}"
        audio.write(root / "noisy" / f"{name}.wav", clean + noise_part, rate, "FLOAT")
        audio.write(root / "clean" / f"clean_fileid_{number}.wav", clean, rate, "FLOAT")
    return root


@pytest.fixture
def blind(tmp_path, recordings):
    folder = tmp_path / "blind"
    folder.mkdir()
    (folder / "p287_001.wav").symlink_to(recordings / "vctk_demand_mini" / "noisy" / "p287_001.wav")
    return folder


def evaluated(enhancer, test_root: Path, test: str, metrics: list[str], folder: Path) -> pd.DataFrame:
    """Evaluate on the test set and return its scores.csv."""
    loading = dict(sample_rate=16000, segment_seconds=1.0, batch_size=1, num_workers=0, seed=0, cache_dir=folder)
    data = dns_pairs(None, str(test_root), test, 0.5, **loading)
    data.setup(("test",))
    evaluate_split(
        enhancer, data, "test", OmegaConf.create({"test": metrics, "test_files": None, "workers": 1}), folder
    )
    return pd.read_csv(folder / "scores.csv")


def test_train_with_a_blind_test_set_and_evaluate_on_pairs(tmp_path, corpus, blind):
    pytest.importorskip("speechmos")
    overrides = (
        "data=dns_pairs",
        "data.root=corpus",
        "data.validation_share=0.3",
        "data.test=blind",
        "data.test_root=blind",
        "data.segment_seconds=1",
        "data.batch_size=2",
        "data.num_workers=0",
        "model.width_mult=0.5",
        "logger=csv",
        "trainer.accelerator=cpu",
        "trainer.max_epochs=1",
        "trainer.max_steps=2",
        "metrics.validation=[si_sdr]",
        "monitor=val/si_sdr",
        "callbacks.clips.count=0",
        "data.cache_dir=cache",
        "metrics.workers=1",
        "run_dir=train",
    )
    done = run_command(tmp_path, *overrides)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no clean reference: left out pesq_wb, pesq_nb, stoi, estoi," in done.stdout
    summary = json.loads((tmp_path / "train" / "summary.json").read_text())
    assert summary["steps"] == 2 and summary["bad_files"] == []
    conditions = ("noisy", "enhanced", "improvement")
    assert set(summary["test"]) == {f"{condition}_{name}" for condition in conditions for name in DNSMOS_METRICS}
    assert summary["test"]["noisy_dnsmos_ovrl"] == pytest.approx(2.36815, abs=1e-3)
    assert (tmp_path / "train" / "test" / "worst_p287_001.png").is_file()

    scores = evaluated(
        gtcrn.load(tmp_path / "train" / "checkpoints" / "best.ckpt"), corpus, "auto", ["si_sdr"], tmp_path
    )
    assert list(scores["snr"]) == [*SNRS, *SNRS]
    assert list(scores["noisy_si_sdr"]) == pytest.approx(list(scores["snr"]), abs=0.5)
    assert len(list((tmp_path / "enhanced").glob("*.wav"))) == 8


def test_published_gtcrn_on_a_blind_recording(tmp_path, references, blind, caplog):
    pytest.importorskip("speechmos")
    caplog.set_level(logging.INFO)
    enhancer = gtcrn.load(references / "gtcrn" / "dns3_epoch87.tar")
    metrics = ["stoi", "dnsmos_sig", "dnsmos_bak", "dnsmos_ovrl"]
    (scores,) = evaluated(enhancer, blind, "blind", metrics, tmp_path).to_dict("records")
    assert "no clean reference: left out stoi" in caplog.messages
    assert scores["noisy_dnsmos_sig"] == pytest.approx(3.33366, abs=1e-4)
    assert scores["enhanced_dnsmos_bak"] > scores["noisy_dnsmos_bak"] + 1
    assert scores["enhanced_dnsmos_ovrl"] > scores["noisy_dnsmos_ovrl"] + 0.4
    assert "| DNSMOS BAK |" in (tmp_path / "scores.md").read_text()
    assert (tmp_path / "enhanced" / "p287_001.wav").is_file()


def test_without_a_reference_dnsmos_is_computed_and_the_rest_named(caplog):
    pytest.importorskip("speechmos")
    caplog.set_level(logging.INFO)
    assert computable(["pesq_wb", "dnsmos_ovrl"], reference=True) == ["pesq_wb", "dnsmos_ovrl"]
    assert computable(["dnsmos_ovrl", "dnsmos_sig"], reference=False) == ["dnsmos_ovrl", "dnsmos_sig"]
    assert not caplog.messages
    assert computable(["pesq_wb", "dnsmos_ovrl", "stoi"], reference=False) == ["dnsmos_ovrl"]
    assert computable(["si_sdr"], reference=False) == list(DNSMOS_METRICS)
    assert caplog.messages == ["no clean reference: left out pesq_wb, stoi", "no clean reference: left out si_sdr"]


def test_without_noisy_signals_what_needs_them_is_named(caplog):
    caplog.set_level(logging.INFO)
    assert computable(["stoi", "speech_att", "noise_att"], reference=True, noisy=False) == ["stoi"]
    assert caplog.messages == ["no noisy signals: left out speech_att, noise_att"]
    with pytest.raises(UserError, match="metrics.test: noise_att need the noisy signals too; give noisy="):
        computable(["noise_att"], reference=True, noisy=False)


def test_a_missing_package_is_told_before_anything_is_enhanced(monkeypatch):
    monkeypatch.setitem(sys.modules, "speechmos", None)
    assert computable(["pesq_wb"], reference=True) == ["pesq_wb"]
    with pytest.raises(UserError, match=r"'dnsmos_sig' needs the package speechmos: pip install.*dnsmos"):
        computable(["pesq_wb"], reference=False)


def finished(**places):
    return OmegaConf.create(dict(enhanced=None, clean=None, noisy=None, pairs=None) | places)


def test_finished_audio_needs_no_clean_half(recordings, blind):
    noisy = recordings / "vctk_demand_mini" / "noisy"
    (pair,) = finished_pairs(finished(enhanced=str(blind), noisy=str(noisy)))
    assert (pair.name, pair.clean, pair.noisy) == ("p287_001", None, noisy / "p287_001.wav")
    (pair,) = finished_pairs(finished(enhanced=str(blind / "p287_001.wav")))
    assert (pair.name, pair.clean, pair.noisy) == ("p287_001", None, None)
    with pytest.raises(UserError, match="noisy=.*5 of the enhanced files have no match, e.g. p287_002"):
        finished_pairs(finished(enhanced=str(noisy), noisy=str(blind)))
    with pytest.raises(UserError, match="clean=.* needs enhanced="):
        finished_pairs(finished(clean=str(noisy)))
