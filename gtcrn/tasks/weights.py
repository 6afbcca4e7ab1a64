"""task=weights: a table of the weights that have a name, and what is known of each."""

from __future__ import annotations

from omegaconf import DictConfig
from rich.console import Console

from gtcrn.metrics import METRICS
from gtcrn.plots.tables import rich_table
from gtcrn.tasks import remove_stub
from gtcrn.weights import Entry, entries, held

WIDTH = 200  # more than the table takes, so that it is not cut where a terminal is narrower
TEST_SET = "vctk_demand_test"
MEASURES = ("pesq_wb", "stoi", "si_snr")
TEST_SETS = {TEST_SET: "the test set of VCTK-DEMAND", "six_pairs": "six pairs of p287, whom VCTK-DEMAND trains with"}
NOTE = "Scores: measured on the test set of VCTK-DEMAND. here: whether this machine has the file."


def run(cfg: DictConfig) -> None:
    known = entries().values()
    console = Console(soft_wrap=True, highlight=False)
    console.width = WIDTH
    header = ("name", "system", "trained on", "size", *(METRICS[name].label for name in MEASURES), "here")
    console.print(rich_table("", header, [row(entry) for entry in known]), NOTE)
    for entry in known:
        console.print(f"\n{entry.name}", *details(entry), sep="\n  ")
    remove_stub()


def row(entry: Entry) -> tuple[str, ...]:
    """Return the cells of an entry's row."""
    size = f"{entry.bytes / 1000:,.0f} kB" if entry.bytes else "–"
    scores = entry.measured.get(TEST_SET, {})
    measured = (f"{scores[name]:.{METRICS[name].digits}f}" if name in scores else "–" for name in MEASURES)
    here = "yes" if held(entry) else "no" if entry.sha256 else "no checksum"
    return entry.name, entry.system, entry.trained_on, size, *measured, here


def details(entry: Entry) -> list[str]:
    """Return the lines about an entry that its row has no room for."""
    lines = [f"licence    {entry.licence}", f"published  {' '.join(entry.published.split()) or 'no scores'}"]
    for name, scores in entry.measured.items():
        values = ", ".join(
            f"{METRICS[metric].label} {value:.{METRICS[metric].digits}f}" for metric, value in scores.items()
        )
        lines.append(f"measured   {values} on {TEST_SETS[name]}, padding={entry.padding}")
    return [*lines, f"from       {entry.url or entry.file or 'GTCRN_WEIGHTS alone, since no address is known'}"]
