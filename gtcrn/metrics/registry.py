"""The registry of all measures: their names, the range of their values, and whether a higher value is better."""

from __future__ import annotations

import re
from typing import NamedTuple, TypeVar

import numpy as np
import pandas as pd

Values = TypeVar("Values", float, np.ndarray, pd.Series, pd.DataFrame)


class Metric(NamedTuple):
    """The description of a measure. label: its name for people, with its unit. digits: how many to show after the
    point. range: of its values."""

    label: str
    digits: int
    range: str
    note: str
    more_is_better: bool = True

    @property
    def described(self) -> str:
        return f"{self.note}; {self.range}, {'more' if self.more_is_better else 'less'} is better"

    def goodness(self, values: Values) -> Values:
        """Return the values with the sign by which a higher one is better."""
        return values if self.more_is_better else -values


METRICS = {
    "pesq_wb": Metric("PESQ-wb", 2, "1.0 to 4.6", "P.862.2 wideband, ITU reference code without Corrigendum 2"),
    "pesq_nb": Metric("PESQ-nb", 2, "1.0 to 4.5", "P.862.1 narrowband, the same code"),
    "stoi": Metric("STOI", 3, "0 to 1", "package pystoi"),
    "estoi": Metric("ESTOI", 3, "0 to 1", "package pystoi"),
    "si_sdr": Metric("SI-SDR dB", 2, "unbounded", "means not removed"),
    "si_snr": Metric("SI-SNR dB", 2, "unbounded", "means removed"),
    "csig": Metric("CSIG", 2, "1 to 5", "Hu and Loizou 2008 on PESQ-wb"),
    "cbak": Metric("CBAK", 2, "1 to 5", "Hu and Loizou 2008 on PESQ-wb"),
    "covl": Metric("COVL", 2, "1 to 5", "Hu and Loizou 2008 on PESQ-wb"),
    "segsnr": Metric("segSNR dB", 2, "-10 to 35", "30 ms frames, each limited to this range"),
    "llr": Metric("LLR", 3, "from 0", "log-likelihood ratio, the best 95 % of the frames", more_is_better=False),
    "wss": Metric("WSS", 2, "from 0", "weighted spectral slope, the best 95 % of the frames", more_is_better=False),
    "dnsmos_sig": Metric("DNSMOS SIG", 2, "1 to 5", "P.835, without reference (package speechmos)"),
    "dnsmos_bak": Metric("DNSMOS BAK", 2, "1 to 5", "P.835, without reference (package speechmos)"),
    "dnsmos_ovrl": Metric("DNSMOS OVRL", 2, "1 to 5", "P.835, without reference (package speechmos)"),
    "dnsmos_p808": Metric("DNSMOS P.808", 2, "1 to 5", "without reference (package speechmos)"),
}
DNSMOS_METRICS = tuple(name for name in METRICS if name.startswith("dnsmos"))
DEFAULT_METRICS = tuple(name for name in METRICS if name not in DNSMOS_METRICS)

_RATIOS = ("snr",)  # training=qat logs beside its loss the SNR of the integer model's output to the float model's


def more_is_better(name: str) -> bool:
    """Return whether a higher value is better for the name of a logged value, e.g. val/si_sdr or test.enhanced_llr.

    An improvement is always better if higher. A name that is no measure's is a loss, a cost or a count of failures,
    for which lower is better.
    """
    condition, metric = re.fullmatch(r"(?:.*[./])?(improvement_|enhanced_|noisy_)?(.*)", name).groups()  # type: ignore[union-attr]
    if condition == "improvement_" or metric in _RATIOS:
        return True
    return metric in METRICS and METRICS[metric].more_is_better
