"""Paired comparison of systems that were scored on the same files: a bootstrap over files and seeds.

compared = compare({0: [scores_of_gtcrn], 1: [scores_of_seed_1, scores_of_seed_2]}, reference=0)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd

from gtcrn.metrics import METRICS

NOISY = -1  # the noisy input among systems, in place of a configuration's number
RESAMPLES = 10_000
_SEED = 0
_AT_ONCE = 2**20  # counts of drawn files in memory
_TIE = 1e-12  # means that differ by less are equal but for rounding


def compare(systems: Mapping[int, Sequence[pd.DataFrame]], reference: int) -> pd.DataFrame:
    """Compare systems, and the noisy input, with one of them by every metric that they were scored by.

    systems: the scores of each system, a table for every seed, with the same files as rows and columns
    {noisy,enhanced}_<metric>. Seeds without any score of a metric are left out. reference: a system, or NOISY.

    Returns a row per metric and system, the noisy input first, with the columns metric, system and those of
    `bootstrap`; no row for metrics that the reference, or nobody else, was scored by.
    """
    tables = [table for seeds in systems.values() for table in seeds]
    compared = []
    for metric, known in METRICS.items():
        scores = {system: _scores(seeds, f"enhanced_{metric}") for system, seeds in systems.items()}
        if len(noisy := _scores(tables, f"noisy_{metric}")):  # it differs between runs by rounding alone
            scores = {NOISY: pd.DataFrame(noisy).mean().to_numpy()[None]} | scores
        scores = {system: values for system, values in scores.items() if values.size}
        if reference in scores and len(scores) > 1:
            result = bootstrap(list(scores.values()), list(scores).index(reference))
            if not known.more_is_better:
                result["better"] = 1 - result["better"]
            compared.append(result.assign(metric=metric, system=list(scores)))
    return pd.concat(compared, ignore_index=True) if compared else pd.DataFrame()


def bootstrap(systems: Sequence[np.ndarray], reference: int) -> pd.DataFrame:
    """Compare the scores (S, F) of each system, of S seeds on the same F files, with those of system `reference`.

    Each of RESAMPLES resamples draws files with replacement, the same ones for all systems, and of each system its
    seeds, always one fewer than there are, by which the variance of a mean is unbiased (Rao and Wu 1988). A file on
    which any score of the two is not finite is left out of their comparison.

    Returns a row per system:
        n, files, lacking               seeds, files that were compared, and files that were left out
        mean, mean_low, mean_high       with a 95 % interval
        deviation                       of the means of the seeds (n − 1); nan of one seed
        difference, low, high           from the reference, with a 95 % interval
        better                          share of the resamples whose mean is higher than the reference's; equal ones
                                        count half
    Intervals and shares are nan where fewer than two files were compared.
    """
    base = systems[reference]
    blocks = []  # of each system: which files both have scores of, a row for each of its seeds and of the reference's
    for own in systems:
        known = np.isfinite(own).all(axis=0) & np.isfinite(base).all(axis=0)
        blocks.append(np.where(known, np.concatenate([np.ones((1, len(known))), own, base]), 0))
    values = np.concatenate(blocks)
    sums = np.concatenate([counts @ values.T for counts in _drawn_files(values.shape[1])])
    ends = np.cumsum([len(block) for block in blocks])[:-1]
    rows = []
    for number, (own, block, drawn) in enumerate(zip(systems, blocks, np.split(sums.T, ends))):
        total = block.sum(axis=1)
        files = int(total[0])
        with np.errstate(invalid="ignore"):  # a resample of few files may have drawn none that both have scores of
            seeds, base_seeds = np.split(total[1:] / total[0], [len(own)])
            drawn_seeds, drawn_base_seeds = np.split(drawn[1:] / drawn[0], [len(own)])
        means = _drawn_means(drawn_seeds, number)
        differences = means - _drawn_means(drawn_base_seeds, reference)
        mean_low, mean_high = _interval(means, files)
        low, high = _interval(differences, files)
        shares = np.where(np.abs(differences) < _TIE, 0.5, differences > 0)[np.isfinite(differences)]
        rows.append({
            "n": len(own), "files": files, "lacking": len(block[0]) - files,
            "mean": seeds.mean(), "mean_low": mean_low, "mean_high": mean_high,
            "deviation": seeds.std(ddof=1) if len(own) > 1 else np.nan,
            "difference": seeds.mean() - base_seeds.mean(), "low": low, "high": high,
            "better": shares.mean() if files > 1 else np.nan,
        })  # fmt: skip
    return pd.DataFrame(rows)


def _scores(tables: Sequence[pd.DataFrame], column: str) -> np.ndarray:
    """Return the scores (S, F) of the tables that have any in this column."""
    columns = [pd.to_numeric(table[column], errors="coerce") for table in tables if column in table]
    return np.array([scores for scores in columns if scores.notna().any()], dtype=float)


def _drawn_files(files: int) -> Iterator[np.ndarray]:
    """Yield how often each file is drawn, (some resamples, F)."""
    generator = np.random.default_rng(_SEED)
    for start in range(0, RESAMPLES, most := max(1, _AT_ONCE // files)):
        resamples = min(most, RESAMPLES - start)
        drawn = generator.integers(files, size=(resamples, max(files - 1, 1)))
        drawn += files * np.arange(resamples)[:, None]
        yield np.bincount(drawn.ravel(), minlength=resamples * files).reshape(resamples, files)


def _drawn_means(seeds: np.ndarray, system: int) -> np.ndarray:
    """Return the mean of seeds that are drawn anew in each resample. seeds: (S, R)."""
    generator = np.random.default_rng([_SEED, 1 + system])  # systems are independent of each other
    drawn = generator.integers(len(seeds), size=(max(len(seeds) - 1, 1), seeds.shape[1]))
    return np.take_along_axis(seeds, drawn, axis=0).mean(axis=0)


def _interval(values: np.ndarray, files: int) -> np.ndarray:
    return np.quantile(values[np.isfinite(values)], [0.025, 0.975]) if files > 1 else np.full(2, np.nan)
