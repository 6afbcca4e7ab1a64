"""Names beside the dots of a figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox

from gtcrn.plots.palette import GREY

_NEAR, _FAR, _STEP = 6, 120, 8  # points from a dot to its label
_DIRECTIONS = {  # positions of a label beside its dot, best first, and its alignment there
    (1, 0): ("left", "center"),
    (-1, 0): ("right", "center"),
    (0, 1): ("center", "bottom"),
    (0, -1): ("center", "top"),
    (1, -1): ("left", "top"),
    (-1, 1): ("right", "bottom"),
    (1, 1): ("left", "bottom"),
    (-1, -1): ("right", "top"),
}


def label_points(panel: Axes, points: Mapping[str, tuple[float, float]], between: str = "\n", **style: Any) -> None:
    """Write names beside their dots without overlaps; dots at one position share a label.

    The panel must have been laid out, by `Figure.draw_without_rendering`. points: the position of each name.
    between: what separates the names in a shared label. style: of the text.
    """
    names: dict[tuple[int, int], list[str]] = {}
    for name, point in points.items():
        names.setdefault(tuple(panel.transData.transform(point).round(-1)), []).append(name)
    taken = [Bbox.from_bounds(x - 6, y - 6, 12, 12) for x, y in names]
    for group in names.values():
        label = _beside(panel, points[group[0]], between.join(group), taken, {"fontsize": 8} | style)
        taken.append(label.get_window_extent())


def _beside(
    panel: Axes, point: tuple[float, float], text: str, taken: Sequence[Bbox], style: Mapping[str, Any]
) -> Annotation:
    """Place a label as near to its dot as there is room for it, or on the dot if there is none."""
    for distance in range(_NEAR, _FAR, _STEP):
        for (right, up), (horizontal, vertical) in _DIRECTIONS.items():
            offset = {"xytext": (right * distance, up * distance), "textcoords": "offset points"}
            label = panel.annotate(text, point, **offset, ha=horizontal, va=vertical, **style)
            extent = label.get_window_extent()
            inside = panel.bbox.contains(*extent.min) and panel.bbox.contains(*extent.max)
            if inside and not any(extent.overlaps(other) for other in taken):
                if distance > _NEAR:
                    line = {"arrowstyle": "-", "color": GREY, "linewidth": 0.6, "shrinkA": 0, "shrinkB": 3}
                    panel.annotate("", point, **offset, arrowprops=line)
                return label
            label.remove()
    return panel.annotate(text, point, **style)
