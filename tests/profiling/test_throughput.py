"""What is measured is what was meant: the same parts of the same files, every path there, memory by process."""

import sys
from math import isnan

import pytest

from gtcrn.data import audio, datasets
from gtcrn.data.manifest import open_manifest
from gtcrn.data.mixing import Recipe
from gtcrn.data.speech import dns, vctk_demand
from gtcrn.profiling.throughput import (
    _part,
    _recorded,
    _write_corpus,
    measure_loader,
    measure_table,
    measure_throughput,
)


def loading(cache) -> dict:
    return dict(sample_rate=16000, segment_seconds=2.0, batch_size=2, num_workers=0, seed=1, cache_dir=cache)


@pytest.fixture
def mixtures(recordings, tmp_path):
    mini = recordings / "dns_mini"
    places = {"speech": mini / "extra_clean", "noise": mini / "noise", "rir": mini / "rir"}
    data = dns(
        **{role: str(place) for role, place in places.items()}, speaker=None, recipe=Recipe(reverb=1.0),
        held_out=0.1, held_out_by="file", epoch_hours=None, fixed_items=1, fixed_seconds=1.0, **loading(tmp_path),
    )  # fmt: skip
    data.setup(("train",))
    return data


def test_throughput_of_mixtures_and_pairs(mixtures, recordings, tmp_path):
    load, mix = audio.load, datasets.mix
    mixed = measure_throughput(
        mixtures.dataset("train"), 16000, items=11, repetitions=2
    )  # more items than the dataset has
    assert mixed.real_time == pytest.approx(2 * mixed.items_per_second)
    assert 0 < mixed.decoding < 1 and 0 < mixed.mixing < 1 and mixed.decoding + mixed.mixing < 1
    assert mixed.over_decoding > 1
    corpus = str(recordings / "vctk_demand_mini")
    data = vctk_demand(corpus, ["28spk"], [], ["p287_006"], "validation", None, **loading(tmp_path))
    data.setup(("train",))
    assert measure_throughput(data.dataset("train"), 16000, items=5, repetitions=1).mixing == 0
    assert audio.load is load and datasets.mix is mix


def test_decoding_alone_is_of_the_same_parts(mixtures):
    with _recorded(audio, "load") as loads:
        item = mixtures.dataset("train").explain((3, 1))
    assert [str(asked[0]) for asked, _ in loads] == [
        item.facts["speech"].split(" from ")[0],
        item.facts["rir"],
        item.facts["noise"].split(" from ")[0],
    ]
    path, start, frames = _part(*loads[0][0])
    assert audio.info(path).samplerate == 22050 and frames == 44100
    assert start / 22050 == pytest.approx(loads[0][0][2] / 16000, abs=1 / 22050)
    assert _part(*loads[1][0])[1:] == (0, -1)  # a room is read whole


def test_loader_goes_on_over_short_epochs(mixtures):
    found = measure_loader(mixtures, seconds=0.5)
    assert found.first_batch > 0 and found.real_time == pytest.approx(2 * found.items_per_second)


def test_every_path_of_the_made_up_corpus_is_there(tmp_path):
    _write_corpus(tmp_path, 2500)
    manifest = open_manifest(tmp_path, "data.speech", None, "folder")
    assert len(manifest) == 2500 and len({file.path for file in manifest}) == 2500
    assert len(set(manifest.speakers())) == 1000
    for row in (0, 999, 1000, 2499):
        assert len(audio.read(manifest[row].path)[0]) == manifest[row].frames == 16000


def test_cost_of_a_table():
    cost = measure_table(2000, items=16)
    assert cost.rows == 2000 and cost.open_seconds > 0
    if sys.platform == "linux":
        for memory in (cost.main, cost.worker):
            assert memory.keys() == {"rss", "pss", "uss"} and not any(map(isnan, memory.values()))
            assert all(abs(value) < 100 for value in memory.values())  # of a table hardly larger than the other
