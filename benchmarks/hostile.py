"""Repeat the long campaign of damaged files, wrong overrides and kills, and the memory of a long training run.

    python benchmarks/hostile.py --output table.md                   # all of it: hours
    python benchmarks/hostile.py --audio 500 --kills 16              # these parts alone, smaller

Prints one table in Markdown, with a row for each part, and below it every kind of fault that was seen with the first
case that shows it. Cases depend on nothing but --seed. GTCRN_REFERENCES names published checkpoints, which are damaged
too where they are there.
"""

from __future__ import annotations

import argparse
import importlib
import tempfile
from pathlib import Path
from typing import NamedTuple

from children import ACCEPTED, CRASH, LIMIT, TRACEBACK, WORKERS, WRONG, Tally, campaign, table

LEAK = 10.0  # MiB/h by which memory must grow for certain to be called a leak


class Part(NamedTuple):
    """A part of the campaign: `count` cases of `module.cases`, for `module.check`."""

    what: str
    count: int
    module: str
    cases: str = "cases"
    check: str = "check"


PARTS = {
    "audio": Part("audio files", 10_000, "audio_files"),
    "checkpoints": Part("checkpoints", 2_000, "model_files", "checkpoint_cases", "check_checkpoint"),
    "models": Part("model files", 2_000, "model_files", "exported_cases", "check_exported"),
    "overrides": Part("overrides", 1_000, "overrides"),
}
KILLS, MINUTES = 80, 60.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, part in PARTS.items():
        parser.add_argument(f"--{name}", type=int, metavar="N", help=f"{part.what}; of all parts {part.count}")
    parser.add_argument("--kills", type=int, metavar="N", help=f"kill -9 of trainings; of all parts {KILLS}")
    parser.add_argument("--training-minutes", type=float, metavar="M", help=f"of all parts {MINUTES:g}")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=WORKERS, help="processes")
    parser.add_argument("--limit", type=float, default=LIMIT, help="s that a case may take")
    parser.add_argument("--output", type=Path, help="file for the table")
    options = parser.parse_args()
    chosen = {name: getattr(options, name) for name in (*PARTS, "kills", "training_minutes")}
    if not any(chosen.values()):
        chosen = {name: part.count for name, part in PARTS.items()} | {"kills": KILLS, "training_minutes": MINUTES}

    tallies, remarks = [], []
    for name, part in PARTS.items():
        if count := chosen[name]:
            # here, since every worker imports this file anew
            module = importlib.import_module(part.module)
            cases, check = getattr(module, part.cases)(count, options.seed), getattr(module, part.check)
            tallies.append(campaign(part.what, check, cases, count, options.workers, options.limit))
    for measure, amount in ((kills, chosen["kills"]), (training, chosen["training_minutes"])):
        if amount:
            tally, remark = measure(amount, options.seed)
            tallies.append(tally)
            remarks.append(remark)
    result = "\n\n".join([table(tallies), *remarks])
    print(result)
    if options.output:
        options.output.write_text(result + "\n")


def kills(count: int, seed: int) -> tuple[Tally, str]:
    """Kill trainings; return the row that counts the outcomes, and their own table."""
    module = importlib.import_module("kills")
    tally = Tally("kills")
    outcomes = module.outcomes(count, seed)
    for scenario, killed, different in outcomes:
        for point in killed or ["no kill"]:
            note = f"ends otherwise than undisturbed: {different[0]}" if different else ""
            tally.add(f"{scenario} {point}", WRONG if different else ACCEPTED, note)
    return tally, module.table(outcomes)


def training(minutes: float, seed: int) -> tuple[Tally, str]:
    """Train for so long; return the row that counts the outcome, and the growth of memory."""
    module = importlib.import_module("training_memory")
    tally = Tally(f"training, {minutes:g} min")
    with tempfile.TemporaryDirectory() as folder:
        slopes, highest, steps, code = module.measure(minutes, Path(folder) / "run", seed)
    grown = ", ".join(f"{what} {slope}" for what, slope in slopes.items())
    if code:
        tally.add(minutes, CRASH if code < 0 else TRACEBACK, f"exit code {code}")
    else:
        leaks = any(slope.growth - slope.error > LEAK for slope in slopes.values())
        tally.add(minutes, WRONG if leaks else ACCEPTED, "memory grows")
    return (
        tally,
        f"Memory in {minutes:g} minutes of training, {steps} steps: {grown}; at most {highest:.0f} MiB in all.",
    )


if __name__ == "__main__":
    main()
