"""Names beside dots: each name is there, and none lies on another."""

from itertools import combinations

from matplotlib.figure import Figure
from matplotlib.text import Annotation

from gtcrn.plots.labels import label_points


def test_crowded_dots_are_all_named_and_dots_in_one_place_share_a_label():
    figure = Figure(figsize=(6, 4), dpi=100)
    panel = figure.subplots()
    points = {str(number): (number % 6 / 20, number // 6 / 20) for number in range(36)}
    points |= {"far": (1, 1), "same": (1, 1)}
    panel.scatter(*zip(*points.values()))
    figure.draw_without_rendering()
    label_points(panel, points, between=", ", color="red")
    labels = [child for child in panel.get_children() if isinstance(child, Annotation) and child.get_text()]
    assert sorted(label.get_text() for label in labels) == sorted([*map(str, range(36)), "far, same"])
    extents = [label.get_window_extent() for label in labels]
    assert not any(one.overlaps(other) for one, other in combinations(extents, 2))
    assert {label.get_color() for label in labels} == {"red"}
