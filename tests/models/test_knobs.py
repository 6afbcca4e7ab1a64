"""Every knob's legal range is checked when a model is built, by a message that names the key."""

import re

import pytest
import torch

from gtcrn.errors import UserError
from gtcrn.models import gtcrn, light_v3, ulunas


@pytest.mark.parametrize(
    ("build", "knob"),
    [
        (gtcrn.build, {"channels": 15}),
        (gtcrn.build, {"channels": 0}),
        (gtcrn.build, {"dpgrnn_count": 0}),
        (gtcrn.build, {"hidden_size": 6}),
        (gtcrn.build, {"erb_low_bins": 64}),
        (gtcrn.build, {"erb_low_bins": 300}),
        (gtcrn.build, {"erb_bands": 180}),
        (gtcrn.build, {"n_fft": 511}),
        (gtcrn.build, {"hop_length": 300}),
        (light_v3.build, {"width_mult": 0.25}),
        (light_v3.build, {"width_mult": -1}),
        (light_v3.build, {"r": 0}),
        (light_v3.build, {"erb_bands": 1}),
        (light_v3.build, {"padding": "mirror"}),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else None,
)
def test_out_of_range_knob_is_named(build, knob):
    ((key, value),) = knob.items()
    with pytest.raises(UserError, match=f"{key}={value}"):
        build(**knob)


PUBLISHED = dict(
    blocks=["conv", "mb", "dws", "mb", "dws"],
    channels=[12, 24, 24, 32, 16],
    kernel_sizes=[[3, 3], [2, 3], [2, 3], [1, 5], [1, 5]],
    strides=[2, 2, 1, 1, 1],
    groups=[1, 2, 2, 2, 2],
)


@pytest.mark.parametrize(
    ("key", "block", "value"),
    [
        ("blocks", 1, "xconv"),
        ("channels", 2, 0),
        ("channels", 4, 18),  # not divided by 4
        ("kernel_sizes", 0, [0, 3]),
        ("kernel_sizes", 3, [1, 4]),
        ("strides", 1, 3),
        ("groups", 0, 2),  # the input has one channel
        ("groups", 2, 5),
        ("groups", 2, 0),
    ],
)
def test_out_of_range_value_of_a_block_is_named(key, block, value):
    values = [*PUBLISHED[key][:block], value, *PUBLISHED[key][block + 1 :]]
    with pytest.raises(UserError, match=re.escape(f"model.{key}[{block}]={value}")):
        ulunas.build(**{key: values})


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"groups": [1, 2]}, "model.groups: 2 values for 5 blocks"),
        ({key: [] for key in PUBLISHED}, "model.blocks: 0 values for 0 blocks"),
        ({"strides": [2] * 5, "erb_low_bins": 67}, r"model.strides\[1\]=2: halves 66 bands"),
        ({"dpgrnn_count": 0}, "model.dpgrnn_count=0"),
        ({"causal": False}, "model.causal=False: .*; set streaming=causal$"),
    ],
    ids=str,
)
def test_blocks_that_do_not_fit_together_are_named(knobs, message):
    with pytest.raises(UserError, match=message):
        ulunas.build(**knobs)


def test_what_a_search_may_find_streams():
    """With residuals, groups of four, other strides, and every kind as the first block, which the decoder ends with."""
    for first in ("conv", "dws", "mb"):
        enhancer = ulunas.build(
            blocks=[first, "mb", "mb"],
            channels=[8, 8, 8],
            kernel_sizes=[[1, 3], [4, 1], [2, 5]],
            strides=[1, 2, 1],
            groups=[1, 4, 2],
            dpgrnn_count=1,
            erb_low_bins=9,
            erb_bands=8,
            n_fft=64,
            hop_length=32,
        )
        enhancer.eval()
        wave = torch.randn(1, 32 * 12, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            whole, state, streamed = enhancer(wave)[0], enhancer.initial_state(1), []
            for hop in wave.split(32, dim=1):
                output, state = enhancer(hop, state)
                streamed.append(output)
        assert enhancer.core.encoder[2].residual and not enhancer.core.encoder[1].residual
        torch.testing.assert_close(torch.cat(streamed, dim=1)[:, 32:], whole[:, :-32], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "width_mult, channels, r", [(0.5, 8, 8), (0.75, 9, 8), (1.0, 12, 9), (1.25, 15, 12), (2, 24, 18)]
)
def test_light_v3_published_rule(width_mult, channels, r):
    core = light_v3.build(width_mult=width_mult).core
    assert core.encoder[0].pw.out_channels == channels
    assert core.dual_path[0].pre.out_features == r


def test_r_is_free_of_the_rule():
    assert light_v3.build(r=16).core.dual_path[1].inter.hidden_size == 16
