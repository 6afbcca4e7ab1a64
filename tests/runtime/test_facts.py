"""Facts about a model are strings only in its file, and come back from there as they were."""

import json
from dataclasses import replace

import pytest

from gtcrn.errors import UserError
from gtcrn.runtime.facts import BandCodes, Integers, ModelFacts, Signal, read_input_level, read_states

SIGNAL = Signal("bands", 16000, 512, 256, 256, "hann")
STATES = {"state.first": [1, 2, 3], "state.second": [1, 4]}
FACTS = ModelFacts("GTCRN-Micro", SIGNAL, STATES, "MIT", "made up", "0123abc")
CODES = BandCodes(16, 20, 65, {"input": [0.5, -3], "output": [0.25, 0]})


def test_facts_come_back_from_the_strings_in_a_file():
    facts = replace(FACTS, integers=Integers("mixed", CODES, 129, {"ADD": 2}, 0.25, 1.0, snr=30.0, check="fine"))
    metadata = facts.metadata()
    assert all(type(value) is str for value in metadata.values())
    assert Signal.read(metadata) == SIGNAL and read_states(metadata) == STATES and BandCodes.read(metadata) == CODES
    written = {key: metadata[key] for key in ("quantize", "bands", "int16_macs", "integer_macs", "snr_db", "check")}
    assert written == dict(
        quantize="mixed", bands="129", int16_macs="0.25", integer_macs="1", snr_db="30.0", check="fine"
    )
    assert json.loads(metadata["operators"]) == {"ADD": 2} and "left_in_float" not in metadata


@pytest.mark.parametrize(("stated", "read"), [(-25.5, -25.5), (None, None), ("loud", None), ("nan", None)])
def test_the_level_of_the_training_is_stated_where_it_is_known(stated, read):
    metadata = replace(FACTS, input_level=stated).metadata()
    assert ("input_level" in metadata) == (stated is not None)
    assert read_input_level(metadata) == read


def test_nothing_is_stated_of_integers_that_are_not_there():
    assert FACTS.metadata().keys().isdisjoint(Integers("int8", CODES, 1, {"ADD": 1}, 0.0, 0.0, {}, 1.0, "").metadata())


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"n_fft": "many"}, "n_fft=many: must be a whole number"),
        ({"hop_length": None}, "hop_length=None: must be a whole number"),
        ({"latency": "-1"}, "latency=-1: must lie between 0 and 1048576"),
        ({"kind": "sound"}, "kind=sound: must be one of spectrum, wave, bands"),
    ],
)
def test_signals_that_no_model_has_are_named(changes, complaint):
    with pytest.raises(UserError, match=complaint):
        Signal.read(FACTS.metadata() | changes)


def test_milliseconds():
    assert (SIGNAL.hop_ms, SIGNAL.latency_ms, SIGNAL.total_ms) == (16, 16, 32)
