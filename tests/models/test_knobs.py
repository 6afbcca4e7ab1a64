"""Every knob's legal range is checked when a model is built, by a message that names the key."""

import pytest

from gtcrn.errors import UserError
from gtcrn.models import gtcrn, light_v3


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


@pytest.mark.parametrize(
    "width_mult, channels, r", [(0.5, 8, 8), (0.75, 9, 8), (1.0, 12, 9), (1.25, 15, 12), (2, 24, 18)]
)
def test_light_v3_published_rule(width_mult, channels, r):
    core = light_v3.build(width_mult=width_mult).core
    assert core.encoder[0].pw.out_channels == channels
    assert core.dual_path[0].pre.out_features == r


def test_r_is_free_of_the_rule():
    assert light_v3.build(r=16).core.dual_path[1].inter.hidden_size == 16
