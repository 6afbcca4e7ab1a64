"""Objective measures of enhanced speech, for one pair of signals and for many on all cores.

values, failures = evaluate_pair(clean, enhanced, 16000)
scores = score_pairs([Pair("p1", clean="clean/p1.wav", enhanced="out/p1.wav", noisy="noisy/p1.wav")])
"""

from gtcrn.metrics.pair import DEFAULT_METRICS, DNSMOS_METRICS, METRICS, Scores, evaluate_pair
from gtcrn.metrics.pool import Pair, score_pairs

__all__ = [
    "DEFAULT_METRICS",
    "DNSMOS_METRICS",
    "METRICS",
    "Pair",
    "Scores",
    "evaluate_pair",
    "score_pairs",
]
