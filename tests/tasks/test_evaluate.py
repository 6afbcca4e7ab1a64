"""task=evaluate: which finished files belong together, their names, and files that are scored as they are enhanced."""

import os
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from fixtures.commands import compose
from torch import nn

from gtcrn.data import audio
from gtcrn.errors import UserError
from gtcrn.metrics import WavePair, score_pairs
from gtcrn.tasks import evaluate
from gtcrn.tasks.evaluate import finished_pairs


def found(*overrides):
    return finished_pairs(compose("task=evaluate", *overrides))


@pytest.fixture
def folders(tmp_path):
    noise = np.random.default_rng(0).uniform(-0.3, 0.3, 16000).astype(np.float32)
    for name in ("out/a b.wav", "out/c.wav", "ref/a b.wav", "ref/c.wav", "in/c.wav"):
        audio.write(tmp_path / name, noise, 16000)
    return tmp_path


@pytest.mark.parametrize(
    "text",
    [
        '# heading\n"out/a b.wav" "ref/a b.wav"\nout/c.wav   ref/c.wav in/c.wav\n',
        "\ufeffout/a b.wav\tref/a b.wav\r\n\r\nout/c.wav\tref/c.wav\tin/c.wav\r\n",
    ],
    ids=["spaces", "tabs, a mark and ends of lines of Windows"],
)
def test_lists_of_pairs(folders, text):
    (folders / "pairs.txt").write_bytes(text.encode())
    first, second = found(f"pairs={folders}/pairs.txt")
    assert (first.name, first.enhanced, first.clean) == ("a b", folders / "out/a b.wav", folders / "ref/a b.wav")
    assert (second.name, second.noisy) == ("c", folders / "in/c.wav")


def test_a_line_that_is_no_pair_is_shown(folders):
    (folders / "pairs.txt").write_text("out/a b.wav ref/a b.wav")
    with pytest.raises(UserError, match="got 4 paths in: out/a b.wav ref/a b.wav; paths with spaces stand between"):
        found(f"pairs={folders}/pairs.txt")


def test_pairs_by_number(folders):
    for name in ("book_snr12.5_fileid_1", "book_snr3_fileid_12"):
        os.link(folders / "out/c.wav", folders / f"in/{name}.wav")
    (folders / "in/c.wav").unlink()
    for number in (1, 2, 12):
        (folders / "clean").mkdir(exist_ok=True)
        os.link(folders / "out/c.wav", folders / f"clean/clean_fileid_{number}.wav")
    pairs = found(f"enhanced={folders}/in", f"clean={folders}/clean")
    assert [(pair.name, pair.clean.name) for pair in pairs] == [
        ("book_snr12.5_fileid_1", "clean_fileid_1.wav"),
        ("book_snr3_fileid_12", "clean_fileid_12.wav"),
    ]
    os.link(folders / "out/c.wav", folders / "in/other_fileid_1.wav")
    with pytest.raises(UserError, match="clean_fileid_1.wav belongs to .* and to another enhanced file"):
        found(f"enhanced={folders}/in", f"clean={folders}/clean")
    os.rename(folders / "in/other_fileid_1.wav", folders / "in/other_fileid_7.wav")
    with pytest.raises(UserError, match="1 of the enhanced files have no match, e.g. other_fileid_7"):
        found(f"enhanced={folders}/in", f"clean={folders}/clean")


def test_names_that_are_no_utf8_are_scored(folders):
    for folder in ("out", "ref"):
        os.rename(folders / folder / "c.wav", os.fsencode(folders / folder) + b"/caf\xe9.wav")
    scores = score_pairs(found(f"enhanced={folders}/out", f"clean={folders}/ref"), ["si_sdr"], workers=1)
    assert scores["name"].tolist() == ["a b", "caf\\udce9"] and scores["enhanced_si_sdr"].min() > 100


class Copy(nn.Linear):
    sample_rate = 16000

    def forward(self, wave):
        return wave, {}


def test_a_limit_is_mixed_into_what_is_scored(tmp_path):
    class Silence(Copy):
        def forward(self, wave):
            return 0 * wave, {}

    wave = torch.rand(1, 1600)
    items = [{"name": ["a"], "noisy": wave, "snr": 5.0}]
    data = SimpleNamespace(test_loader=lambda: items)
    for share in (0, 0.25):
        (pair,) = evaluate.enhanced_pairs(Silence(1, 1), data, "test", tmp_path / "enhanced", 1, share=share)
        np.testing.assert_array_equal(pair.enhanced, np.float32(share) * wave[0].numpy())
        np.testing.assert_array_equal(pair.enhanced, audio.read(tmp_path / "enhanced/a.wav")[0])


@pytest.mark.parametrize("drawn", ["worst_2", "worst_2 best_0", "worst_2 median_1 best_0"])
def test_no_file_is_drawn_twice(tmp_path, drawn):
    noise = np.random.default_rng(0).normal(0, 0.1, 1600).astype(np.float32)
    names = {name.rpartition("_")[2]: score for name, score in zip(drawn.split(), (1, 2, 3))}
    pairs = [WavePair(name, noise, noise) for name in names]
    scores = pd.DataFrame({"name": list(names), "enhanced_si_sdr": list(names.values())})
    evaluate.draw_examples(pairs, scores, 16000, tmp_path)
    assert {file.stem for file in tmp_path.iterdir()} == set(drawn.split())


def test_finished_audio_has_no_limit(perform, folders):
    with pytest.raises(UserError, match="attenuation_limit_db=6: limits what ckpt= takes away; leave it out"):
        perform("task=evaluate", f"enhanced={folders}/out", "attenuation_limit_db=6")


def test_files_are_scored_before_the_next_one_is_enhanced(tmp_path, monkeypatch):
    class Seen(Exception):
        pass

    def score(pairs, *_, count, **__):
        written = []
        for pair in pairs:
            written.append((pair.name, len(list((tmp_path / "enhanced").iterdir()))))
        raise Seen(written, count)

    wave = torch.zeros(1, 1600)
    items = [{"name": [name], "noisy": wave, "clean": wave, "snr": 5.0} for name in "abc"]
    data = SimpleNamespace(dataset=lambda split: items, test_loader=lambda: items)
    monkeypatch.setattr(evaluate, "score_pairs", score)
    with pytest.raises(Seen) as seen:
        chosen = SimpleNamespace(test=["si_sdr"], test_files=2, workers=2)
        evaluate.evaluate_split(Copy(1, 1), data, "test", chosen, tmp_path)
    assert seen.value.args == ([("a", 1), ("b", 2)], 2)
