"""The palette stays apart for colour-blind eyes, and every series differs in more than its colour."""

import re
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_hex, to_rgb

import gtcrn
from gtcrn.plots.palette import SERIES, series

# Machado, Oliveira and Fernandes (2009), severity 1.0, for linear RGB
VISION = {
    "normal": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}
# The difference in CIELAB along b*, the axis that needs most, at which half of the observers see two marks of a third
# of a degree (3 mm at half a metre) as different: 5.349 + 2.871 / (1/3), Stone, Szafir and Setlur (2014).
FLOOR = 14.0


def lab(colours, vision: str) -> np.ndarray:
    """Return the CIELAB values (N, 3) under D65 of sRGB colours as an eye of that vision sees them."""
    encoded = np.array([to_rgb(colour) for colour in colours])
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    linear = np.clip(linear @ np.transpose(VISION[vision]), 0, 1)
    to_xyz = np.array(
        [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.119192, 0.9503041]]
    )
    xyz = linear @ to_xyz.T / to_xyz.sum(axis=1)
    x, y, z = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116).T
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=1)


def smallest_difference(colours, vision: str) -> float:
    """Return the smallest CIE 1976 difference of any two of the colours."""
    return min(np.linalg.norm(a - b) for a, b in combinations(lab(colours, vision), 2))


def test_the_simulation_knows_colours_that_are_confused():
    assert lab(["#ffffff", "#000000"], "normal") == pytest.approx(np.array([[100, 0, 0], [0, 0, 0]]), abs=0.01)
    assert lab(["#ff0000"], "normal")[0] == pytest.approx([53.24, 80.09, 67.20], abs=0.05)
    orange, green = "#ff7f0e", "#2ca02c"  # of matplotlib's default colours
    assert smallest_difference([orange, green], "protanopia") == pytest.approx(4.6, abs=0.1)
    assert smallest_difference([orange, green], "normal") > 50
    for vision in VISION:
        assert np.ptp(lab(["#808080"], vision)[0][1:]) < 0.1  # grey stays grey


@pytest.mark.parametrize("vision", VISION)
def test_any_two_colours_stay_apart(vision):
    """Measured: normal 26.4, protanopia 20.7, deuteranopia 17.9, tritanopia 16.1."""
    assert smallest_difference(SERIES, vision) >= FLOOR


def test_series_differ_in_more_than_colour():
    styles = [series(number) for number in range(28)]
    assert len({tuple(style.values()) for style in styles}) == 28
    without_colour = [(style["marker"], style["linestyle"]) for style in styles]
    assert len(set(without_colour)) == 28
    assert {to_hex(style["color"]) for style in styles} == {to_hex(colour) for colour in SERIES}


def test_no_other_colours_are_used():
    """A colour that a figure chose for itself is in no test of the palette."""
    own = re.compile(
        r"""["']#[0-9a-fA-F]{3,8}["']|["'](?:tab10|tab:\w+|C\d|magma|viridis|RdBu_r|red|green|blue|orange)["']"""
    )
    package = Path(gtcrn.__file__).parent
    files = [path for path in package.rglob("*.py") if path.name != "palette.py" and "matplotlib" in path.read_text()]
    assert len(files) > 5
    assert not [f"{path.name}: {found}" for path in files for found in own.findall(path.read_text())]
