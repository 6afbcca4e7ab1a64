"""The one palette of all figures, and of the listening page.

The colours are Okabe and Ito's (Color Universal Design, 2008), which stay apart for colour-blind eyes. Their yellow is
left out, since it is hardly seen on white. Colour never stands alone: `series` adds a marker and a
line style, `bars` a hatch.
"""

from __future__ import annotations

from typing import Any

BLUE, ORANGE, GREEN, PURPLE = "#0072B2", "#E69F00", "#009E73", "#CC79A7"
SKY, VERMILLION, BLACK = "#56B4E9", "#D55E00", "#000000"
SERIES = (BLUE, ORANGE, GREEN, PURPLE, SKY, VERMILLION, BLACK)
GREY, PALE, GRID = "#6f7a8c", "#c3c9d4", "#e6e8ee"  # of what stands back: references, the rest, grid lines
SPECTROGRAM, CHANGE, SCORE = "magma", "RdBu_r", "viridis"  # colour maps, which colour-blind eyes can order too

_MARKERS = "os^DvPX"
_LINES = ("-", "--", "-.", ":")
_HATCHES = ("", "///", "xxx", "...")


def series(number: int) -> dict[str, Any]:
    """Return the colour, marker and line style of a series in a figure; the first 28 differ from each other."""
    return {
        "color": SERIES[number % len(SERIES)],
        "marker": _MARKERS[number % len(SERIES)],
        "linestyle": _LINES[number // len(SERIES) % len(_LINES)],
    }


def bars(number: int) -> dict[str, Any]:
    """Return the colour and hatch of a series of bars; the first 7 differ from each other."""
    hatch = _HATCHES[number % len(_HATCHES)]
    return {"color": SERIES[number % len(SERIES)], "hatch": hatch, "edgecolor": "white", "linewidth": 0}
