"""Objective measures of enhanced speech, for one pair of signals and for many on all cores.

values, failures = evaluate_pair(clean, enhanced, 16000)
scores = score_pairs([WavePair("p1", clean="clean/p1.wav", enhanced="out/p1.wav", noisy="noisy/p1.wav")])
"""

from gtcrn.metrics.failure import MetricFailure
from gtcrn.metrics.pair import Scores, evaluate_pair
from gtcrn.metrics.pool import WavePair, score_pairs
from gtcrn.metrics.registry import DEFAULT_METRICS, DNSMOS_METRICS, METRICS, more_is_better, register

__all__ = [
    "DEFAULT_METRICS",
    "DNSMOS_METRICS",
    "METRICS",
    "MetricFailure",
    "WavePair",
    "Scores",
    "evaluate_pair",
    "more_is_better",
    "register",
    "score_pairs",
]
