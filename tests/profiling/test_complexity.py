"""The table of many models: what is in it, and that it can be read."""

import math
from itertools import combinations

import matplotlib.image
import pandas as pd
import pytest
from matplotlib.text import Annotation
from rich.console import Console

from gtcrn.profiling import complexity
from gtcrn.profiling.complexity import ModelCost
from gtcrn.profiling.cost import Cost


def make_cost(scale: float = 1.0, looks_ahead: bool = False) -> Cost:
    return Cost(
        parameters_trainable=round(23_669 * scale),
        parameters_all=round(48_245 * scale),
        macs_exact=round(26_595_504 * scale),
        macs_thop=round(34_076_952 * scale),
        macs_by_module={"encoder": round(26_595_504 * scale)},
        frames=63,
        state_bytes=0 if looks_ahead else round(74_240 * scale),
        activation_bytes=0 if looks_ahead else round(62_920 * scale),
        peak_bytes=0 if looks_ahead else round(14_720 * scale),
        window_ms=32.0,
        hop_ms=16.0,
        lookahead_ms=352.0 if looks_ahead else 0.0,
        latency_ms=384.0 if looks_ahead else 32.0,
        compute_ms=math.nan if looks_ahead else 4.0 * scale,
    )


ROWS = [
    ModelCost("gtcrn", make_cost(), "23.67 K / 48.2 K", "33.0 M", "33.0 M is ptflops'."),
    ModelCost("plain", make_cost(0.5)),
    ModelCost("light_v3_one_dpgrnn", make_cost(0.25, looks_ahead=True), note="as published."),
    ModelCost("timbre_balanced", make_cost(2000)),
]


def lines_of(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]


def test_markdown():
    text = complexity.markdown(ROWS)
    lines = lines_of(text)
    assert ["gtcrn ¹", "23,669", "48,245", "23.67 K / 48.2 K", "26.596", "34.077", "33.0 M"] in lines
    assert ["gtcrn", "16.0", "32.0", "0", "72.5", "61.4", "14.4", "4.00", "0.250"] in lines
    assert ["light_v3_one_dpgrnn", "16.0", "384.0", "352", "–", "–", "–", "–", "–"] in lines
    assert "complexity.png" in text


def test_notes_are_of_rows_that_are_there():
    text = complexity.markdown(ROWS)
    assert "- ¹ 33.0 M is ptflops'." in text and "- ² as published." in text
    assert "| plain |" in text and "| light_v3_one_dpgrnn ² |" in text
    alone = complexity.markdown(ROWS[2:])
    assert "ptflops" not in alone and "- ¹ as published." in alone
    many = complexity.markdown([ModelCost(f"model {i}", make_cost(), note=f"note {i}") for i in range(12)])
    assert "| model 11 ¹² |" in many and "- ¹² note 11" in many


def test_terminal_fits_120_columns():
    long = ModelCost("light_v3_two_dpgrnn", make_cost(3000), "23.67 K / 48.2 K", "33.0 M", "word " * 60)
    console = Console(width=120, record=True, file=open("/dev/null", "w"))
    console.print(*complexity.terminal([*ROWS, long]))
    text = console.export_text()
    assert "…" not in text and "light_v3_two_dpgrnn ³" in text and "79,786.512" in text
    assert "² as published." in text


def test_csv(tmp_path):
    complexity.write(ROWS, tmp_path)
    table = pd.read_csv(tmp_path / "complexity.csv", index_col="model")
    assert list(table.index) == [row.name for row in ROWS]
    gtcrn, offline = table.loc["gtcrn"], table.loc["light_v3_one_dpgrnn"]
    assert (gtcrn["macs_exact"], gtcrn["real_time_factor"]) == (26_595_504, 0.25)
    assert (gtcrn["published_parameters"], gtcrn["published_macs"]) == ("23.67 K / 48.2 K", "33.0 M")
    assert offline["lookahead_ms"] == 352
    assert offline[["state_bytes", "activation_bytes", "peak_bytes", "compute_ms", "real_time_factor"]].isna().all()
    assert "26595504," in (tmp_path / "complexity.csv").read_text(), "a count has no decimal point"


@pytest.mark.parametrize(
    "rows",
    [
        ROWS,
        ROWS[:1],
        ROWS[2:3],  # nothing that streams
        [ModelCost(f"one of many models {i}", make_cost(1 + 0.04 * i)) for i in range(12)],
        [ModelCost(f"the same model {i}", make_cost()) for i in range(3)],
    ],
    ids=["some", "one", "none that streams", "close together", "one place"],
)
def test_names_in_the_figure_do_not_overlap(rows, tmp_path):
    figure = complexity.scatter(rows)
    for panel, shown in zip(figure.axes, (rows, [row for row in rows if row.cost.streams])):
        labels = [child for child in panel.get_children() if isinstance(child, Annotation) and child.get_text()]
        assert sorted("\n".join(label.get_text() for label in labels).splitlines()) == sorted(row.name for row in shown)
        extents = [label.get_window_extent() for label in labels]
        assert not any(one.overlaps(other) for one, other in combinations(extents, 2))
        assert all(panel.bbox.x0 <= extent.x0 and extent.x1 <= panel.bbox.x1 for extent in extents)
    figure.savefig(tmp_path / "figure.png")
    assert matplotlib.image.imread(tmp_path / "figure.png").std() > 0
