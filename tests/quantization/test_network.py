"""Integers are as near to the float network as their bits allow, and nothing but ranges depends on calibration."""

import copy

import numpy as np
import pytest
import torch

from gtcrn.quantization.codes import CODES
from gtcrn.quantization.network import Network, key
from gtcrn.quantization.program import lower


def snr(signal, other):
    return float(10 * torch.log10(signal.square().sum() / (signal - other).square().sum()))


def mask(enhancer, bands):
    return enhancer.core.mask(bands, enhancer.core.start(len(bands), None))[0]


@torch.inference_mode()
def test_is_near_to_float(network, enhancer, some_bands, least_snr):
    assert snr(mask(enhancer, some_bands), network(some_bands)) > least_snr


@torch.inference_mode()
def test_every_tensor_holds_codes(network, some_bands):
    for name in network.program.owners():
        low, high = CODES[network.program.bits[name]]
        scale, zero = (value.item() for value in network.scale_zero(name))
        assert scale > 0 and low <= round(zero) <= high
        codes = network.fake_quantize(name, torch.linspace(-1e3, 1e3, 999)) / scale + round(zero)
        assert codes.min() >= low - 0.1 and codes.max() <= high + 0.1
        np.testing.assert_allclose(codes, codes.round(), atol=0.02)


@torch.inference_mode()
def test_parts_can_be_left_in_float(network, some_bands):
    """Of the same network in float, the input's integers alone spoil much less than all of them."""
    alone = copy.deepcopy(network)
    alone.quantized, alone.quantized_weights = frozenset(), False
    exact = alone(some_bands)
    alone.quantized = {"bands"}
    assert snr(exact, network(some_bands)) + 10 < snr(exact, alone(some_bands)) < 125  # at least 23 dB, at most 114


@torch.inference_mode()
def test_equalised_and_normalised_channels_change_nothing_in_float(enhancer, some_bands):
    network, some_bands = Network(lower(enhancer.core)).double(), some_bands.double()
    before = network(some_bands)
    peak = network.weights[key("dual_path.0.0.conv1")].abs().amax(dim=(1, 2, 3))
    network.equalise([some_bands])
    assert (network.weights[key("dual_path.0.0.conv1")].abs().amax(dim=(1, 2, 3)) != peak).any()
    torch.testing.assert_close(network(some_bands), before)
    network.normalise(some_bands)
    torch.testing.assert_close(network(some_bands), before)
    for weight in network.weights.values():
        assert weight.abs().amax(dim=(1, 2, 3)).max() == pytest.approx(1)


def test_learns(enhancer, some_bands):
    network = Network(lower(enhancer.core)).train()
    network.calibrate([some_bands])
    target = mask(enhancer, some_bands)
    loss = (network.quantize()(some_bands) - target).square().sum()
    loss.backward()
    learnt = [network.weights, network.biases, network.slopes, network.log_scale, network.zero]
    for group in learnt:
        assert all(parameter.grad is not None for parameter in group.values())
    assert network.log_scale["bands"].grad != 0


def test_states_begin_with_zero(network, some_bands):
    """A loud past before silence is heard; without one, silence is silence. In double precision: how many frames are
    summed at once decides no tie."""
    network, some_bands = copy.deepcopy(network).double(), some_bands.double()
    with torch.inference_mode():
        silent = network(torch.zeros_like(some_bands))
        assert torch.equal(silent[:, :, -1], silent[:, :, -2])
        first = network(some_bands[:, :, :1])
        torch.testing.assert_close(network(some_bands)[:, :, :1], first)


def test_activations_have_the_widths_that_the_name_says(network):
    widths = {network.program.bits[op.output] for op in network.program.ops}
    assert widths == {"int8": {8}, "mixed": {8, 16}, "int16x8": {16}}[network.name]
