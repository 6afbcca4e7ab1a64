"""task=weights: a table of the weights that have a name, or the weights of a run in a file that can be published."""

from __future__ import annotations

import hashlib
import logging

from omegaconf import DictConfig
from rich.console import Console

from gtcrn.errors import UserError
from gtcrn.files import expanded, whole
from gtcrn.metrics import METRICS
from gtcrn.plots.tables import rich_table
from gtcrn.tasks import remove_stub
from gtcrn.weights import Entry, entries, held

log = logging.getLogger(__name__)

WIDTH = 200  # more than the table takes, so that it is not cut where a terminal is narrower
TEST_SET = "vctk_demand_test"
MEASURES = ("pesq_wb", "stoi", "si_snr")
TEST_SETS = {TEST_SET: "the test set of VCTK-DEMAND", "six_pairs": "six pairs of p287, whom VCTK-DEMAND trains with"}
NOTE = "Scores: measured on the test set of VCTK-DEMAND. here: whether this machine has the file."


def run(cfg: DictConfig) -> None:
    if cfg.ckpt is None and cfg.output is None:
        show()
    elif cfg.ckpt is None or cfg.output is None:
        raise UserError(
            "task=weights needs ckpt= and output=, to write weights alone, or neither, to list those by name"
        )
    else:
        write(cfg)
    remove_stub()


def write(cfg: DictConfig) -> None:
    """Write the weights of a run's checkpoint without what its training needs: optimizer, callbacks and paths.

    Raises UserError if it is no checkpoint of this framework, or if the file can't be written.
    """
    # here, since the table needs no torch
    import torch

    from gtcrn.models.pretrained import CORE_PREFIX, RECORD, open_checkpoint
    from gtcrn.quantization.checkpoint import PREFIX
    from gtcrn.tasks.building import trusted

    checkpoint = open_checkpoint(cfg.ckpt, trusted(cfg))
    checkpoint.blank()
    if not checkpoint.record:
        raise UserError(f"ckpt={cfg.ckpt}: holds weights as {checkpoint.system}'s authors publish them; copy the file")
    path = expanded(cfg.output)
    if path.suffix != ".ckpt":
        raise UserError(f"output={cfg.output}: a checkpoint's name ends in .ckpt")
    state = {CORE_PREFIX + key: weight for key, weight in checkpoint.weights.items()}
    state |= {key: tensor for key, tensor in checkpoint.others.items() if key.startswith(PREFIX)}  # integers
    with whole(path) as partial:
        # copies, since a tensor that is a part of another is written with all of it
        torch.save({RECORD: checkpoint.record, "state_dict": {key: x.clone() for key, x in state.items()}}, partial)
        content = partial.read_bytes()
    log.info("%s\n  sha256: %s\n  bytes: %d", path, hashlib.sha256(content).hexdigest(), len(content))


def show() -> None:
    """Print the table and the details of all weights that have a name."""
    known = entries().values()
    console = Console(soft_wrap=True, highlight=False)
    console.width = WIDTH
    header = ("name", "system", "trained on", "size", *(METRICS[name].label for name in MEASURES), "here")
    console.print(rich_table("", header, [row(entry) for entry in known]), NOTE)
    for entry in known:
        console.print(f"\n{entry.name}", *details(entry), sep="\n  ")


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
    if entry.packaged:
        return [*lines, f"from       this package, see {entry.packaged.with_suffix('.md')}"]
    return [*lines, f"from       {entry.url or 'GTCRN_WEIGHTS alone, since no address is known'}"]
