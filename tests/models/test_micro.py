"""GTCRN-Micro: its knobs, and what makes it fit for microcontrollers."""

import copy

import pytest
import torch
from fixtures.commands import compose
from fixtures.systems import wake
from hydra.utils import instantiate
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

import gtcrn
from gtcrn.errors import UserError
from gtcrn.models import micro
from gtcrn.models.pretrained import to_official

# aten operators of the traced network -> what they become in a .tflite file, all of it in TFLite Micro
TFLITE_MICRO = {
    "conv1d": "CONV_2D or DEPTHWISE_CONV_2D, PAD",
    "conv2d": "CONV_2D or DEPTHWISE_CONV_2D, PAD",
    "batch_norm": "folded into the convolution before it",
    "relu": "fused into the operator before it",
    "upsample_nearest2d": "RESIZE_NEAREST_NEIGHBOR",
    "add": "ADD",
    "mul": "MUL",
    "square": "MUL",
    "mean": "MEAN",
    "sigmoid": "LOGISTIC",
    "tanh": "TANH",
    "cat": "CONCATENATION",
    "stack": "CONCATENATION, RESHAPE",
    "chunk": "SLICE",
    "slice": "SLICE",
    "unsqueeze": "RESHAPE",
    "flatten": "RESHAPE, TRANSPOSE",
}


def configured(name: str):
    return instantiate(compose(f"model={name}").model)


@pytest.mark.parametrize(
    "knobs",
    [
        {"channels": 15},
        {"channels": 0},
        {"stacks": 0},
        {"blocks": 0},
        {"kernel": 0},
        {"dilation_growth": 0},
        {"dilation_growth": 50},
        {"encoder_groups": 3},
        {"encoder_groups": 0},
        {"decoder_groups": -1},
        {"activation": "gelu"},
        {"kernel": 4, "causal": False},
        {"erb_bands": 63},
    ],
    ids=str,
)
def test_out_of_range_knob_is_named(knobs):
    key, value = next(iter(knobs.items()))
    with pytest.raises(UserError, match=f"model.{key}={value}") as raised:
        micro.build(**knobs)
    assert "\n" not in str(raised.value)


def test_knobs_do_what_they_say():
    core = micro.build(stacks=3, blocks=2, kernel=5, dilation_growth=3, encoder_groups=4, decoder_groups=None).core
    assert [[block.conv2.dilation for block in stack] for stack in core.dual_path] == [[(1, 1), (3, 1)]] * 3
    assert all(block.conv2.kernel_size == (5, 1) for stack in core.dual_path for block in stack)
    assert [block.depth_conv.groups for block in core.encoder[2:]] == [4, 4, 4]
    assert [block.depth_conv.groups for block in core.decoder[:3]] == [16, 16, 16]
    assert micro.build(channels=8).core.encoder[2].depth_conv.groups == 8  # depthwise follows the channels


@pytest.mark.parametrize("transposed", [True, False])
def test_doubled_bands_stand_where_the_halved_ones_came_from(transposed):
    layer = micro.doubling(1, 1, transposed).requires_grad_(False)
    convolution = layer if transposed else layer[1]
    nn.init.ones_(convolution.weight)
    nn.init.zeros_(convolution.bias)
    bands = torch.zeros(1, 1, 1, 33)
    bands[..., 10] = 1
    response = layer(bands)[0, 0, 0]
    assert len(response) == 65
    assert (response * torch.arange(65)).sum() / response.sum() == 20


@pytest.mark.parametrize("name", ["micro", "micro_int8"])
def test_batch_norm_folds_into_the_convolution_before_it(name):
    enhancer = wake(configured(name)).double().eval().requires_grad_(False)
    folded = copy.deepcopy(enhancer)
    for block in folded.modules():
        before = None
        for key, child in block.named_children():
            if isinstance(child, nn.BatchNorm2d):
                convolution = before[-1] if isinstance(before, nn.Sequential) else before
                fused = fuse_conv_bn_eval(convolution, child, transpose=isinstance(convolution, nn.ConvTranspose2d))
                convolution.weight, convolution.bias = fused.weight, fused.bias
                setattr(block, key, nn.Identity())
            before = child
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    wave = torch.randn(1, 16000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(folded(wave)[0], enhancer(wave)[0])


class Network(nn.Module):
    """What is left when STFT, ERB product and mask stay on the host."""

    def __init__(self, core):
        super().__init__()
        self.core = core

    def forward(self, bands, state):
        return self.core.mask(bands, state)


def test_int8_variant_is_made_of_what_tflite_micro_has():
    core = configured("micro_int8").eval().requires_grad_(False).core
    convolutions = [module for module in core.modules() if isinstance(module, nn.modules.conv._ConvNd)]
    assert not any(module.transposed for module in convolutions)
    assert all(module.groups in (1, module.in_channels) for module in convolutions)
    example = (torch.randn(1, 3, 1, core.erb.n_bands), core.initial_state(1))
    graph = torch.export.export(Network(core), example).graph
    operators = {str(node.target).split(".")[1] for node in graph.nodes if str(node.target).startswith("aten.")}
    assert operators == TFLITE_MICRO.keys()


@pytest.mark.parametrize("shape", [(16, 0, 3, 3), (16,), ()], ids=str)
def test_shapes_that_make_no_sense_are_told_in_a_line(tmp_path, shape):
    official = to_official(micro.build()) | {"decoder.de_convs.0.depth_conv.weight": torch.zeros(shape)}
    torch.save(official, tmp_path / "bent.tar")
    with pytest.raises(UserError, match="bent.tar: looks like GTCRN-Micro, but a shape is impossible"):
        gtcrn.load(tmp_path / "bent.tar")


@pytest.mark.parametrize(
    "knobs",
    [
        {},
        {"channels": 8, "stacks": 1, "blocks": 3, "kernel": 2, "encoder_groups": 2, "decoder_groups": 4},
        {"n_fft": 320, "hop_length": 160, "erb_bands": 32, "transposed": False, "activation": "relu"},
    ],
    ids=str,
)
def test_sizes_are_read_off_the_shapes_of_a_checkpoint(tmp_path, knobs):
    enhancer = micro.build(**knobs).eval()
    torch.save(to_official(enhancer), tmp_path / "anything.bin")
    loaded = gtcrn.load(tmp_path / "anything.bin")
    wave = torch.randn(1, 4000)
    assert torch.equal(loaded(wave)[0], enhancer(wave)[0])
