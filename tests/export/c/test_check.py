"""The network in C is the simulated one, to the bit."""

import copy

import numpy as np
import pytest

from gtcrn.errors import UserError
from gtcrn.export.c.check import Equality, check, computed, simulated
from gtcrn.quantization.calibration import network_input
from gtcrn.quantization.network import key


def assert_equal(model, code, bands):
    expected = simulated(model.network, bands)
    ours = computed(code, model.network, expected.input)
    np.testing.assert_array_equal(ours.masks, expected.masks)
    assert list(ours.states) == list(expected.states) == list(model.network.program.states())
    for name, state in expected.states.items():
        np.testing.assert_array_equal(ours.states[name], state, err_msg=name)
    return expected


def test_codes_of_small_networks(small, compiled, noise):
    bands = network_input(small.enhancer, noise[64000:72000])
    assert len(np.unique(assert_equal(small, compiled(small), bands).masks)) > 50
    assert_equal(small, compiled(small), 50 * bands)  # louder than the codes can tell


def test_codes_of_real_speech(large, compiled, speech):
    expected = assert_equal(large, compiled(large), network_input(large.enhancer, speech))
    assert len(expected.masks) > 3 * 62.5 and len(np.unique(expected.masks)) > 60


def test_a_wrong_operator_is_told(small, compiled, noise):
    bands = network_input(small.enhancer, noise[64000:68000])
    equality = check(small.network, small.path, bands)
    frames = bands.shape[2]
    assert equality == (frames, frames, True)
    assert str(equality).startswith(f"mask codes of {frames} frames and the states after them equal the simulated ")
    spoilt = copy.deepcopy(small.network)
    spoilt.biases[key("dual_path.0.1.conv3")].data.add_(1)
    with pytest.raises(UserError, match="mask codes of [0-9]+ of [0-9]+ frames equal .* written wrongly"):
        check(spoilt, small.path, bands)


def test_what_is_not_equal_is_not_claimed():
    assert str(Equality(300, 299, True)) == "mask codes of 299 of 300 frames equal the simulated ones to the bit"
    assert "300 of 300" in str(Equality(300, 300, False))
