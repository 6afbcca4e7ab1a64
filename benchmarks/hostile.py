"""Repeat the long campaign against hostile files, overrides and kills, and print one table in Markdown.

python benchmarks/hostile.py                                    # everything: hours
python benchmarks/hostile.py --audio 500                        # one part, smaller
python benchmarks/hostile.py --seed 2 --output table.md         # other cases
"""

from __future__ import annotations

import argparse

import audio_files
from children import LIMIT, WORKERS, campaign, table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--audio", type=int)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=WORKERS)
    parser.add_argument("--limit", type=float, default=LIMIT)
    options = parser.parse_args()
    cases = audio_files.cases(options.audio, options.seed)
    print(table([campaign("audio files", audio_files.check, cases, options.audio, options.workers, options.limit)]))


if __name__ == "__main__":
    main()
