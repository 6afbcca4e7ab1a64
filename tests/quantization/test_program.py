"""The list of operators is the network, for every model that has one: in double precision to the digit."""

import copy

import pytest
import torch

from gtcrn.errors import UserError
from gtcrn.models import dtln, gtcrn, light_v3, micro
from gtcrn.quantization.network import BITS, Network
from gtcrn.quantization.program import lower


@pytest.fixture
def exact(enhancer, some_bands):
    """The model and its bands in double precision."""
    return copy.deepcopy(enhancer).double(), some_bands.double()


def mask(enhancer, bands):
    return enhancer.core.mask(bands, enhancer.core.start(len(bands), None))[0]


@torch.inference_mode()
@pytest.mark.parametrize("fold", [True, False])
@pytest.mark.parametrize("quantize", BITS)
def test_is_the_network(exact, quantize, fold):
    enhancer, bands = exact
    network = Network(lower(enhancer.core, fold=fold, bits=BITS[quantize])).double()
    torch.testing.assert_close(network(bands), mask(enhancer, bands))


def test_counts_and_shapes(enhancer):
    program = lower(enhancer.core)
    assert program.macs().keys() == program.weights.keys()
    assert (
        program.macs()["encoder.1.conv"]
        == program.weights["encoder.1.conv"].numel() * program.shapes["encoder.1.conv"][1]
    )
    assert program.shapes[program.output] == (2, enhancer.core.erb.n_bands)
    remembered = sum(1 for layer in enhancer.core.modules() if getattr(layer, "memory", 0))
    assert len(program.states()) == remembered
    for op in program.ops:  # a state, and what it is concatenated with, are the same integers
        if op.kind in ("past", "leaky", "slice", "unfold"):
            assert program.scale_of[op.output] == program.scale_of[op.inputs[0]]


def test_bits_meet_where_they_are_requantized(enhancer):
    program = lower(enhancer.core, bits=BITS["mixed"])
    for op in program.ops:
        bits = {program.bits[name] for name in (*op.inputs, op.output)}
        assert len(bits) == 1 or (op.kind == "requantize" and len(bits) == 2)
    assert all(program.bits[name] == program.bits[owner] for name, owner in program.scale_of.items())
    skip = [op for op in program.ops if op.kind == "add"][-1].inputs[1]  # what the decoder gets of the first layer
    assert skip.startswith("encoder.0.") and program.producer(skip).kind == "requantize"
    assert program.bits["bands"] == 16 and program.bits[program.output] == 8
    assert 0 == lower(enhancer.core).wide_share() < program.wide_share() < 1


@pytest.mark.parametrize("build", [gtcrn.build, light_v3.build, dtln.build])
def test_models_without_a_form_in_integers_are_told_what_to_do(build):
    with pytest.raises(UserError, match="no form in integers.*model=micro") as told:
        lower(build().core)
    assert "\n" not in str(told.value)


def test_operators_that_the_target_lacks_are_named():
    with pytest.raises(UserError, match=r"decoder.0.depth_conv has groups=2.* no grouped convolution"):
        lower(micro.build(channels=4, decoder_groups=2).core)
