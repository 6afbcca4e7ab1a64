"""The measures of one pair of signals, each with the reason where it has no value."""

from __future__ import annotations

import importlib.util
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import NamedTuple

import numpy as np
import pesq
import soxr
from pystoi import stoi

from gtcrn.errors import UserError
from gtcrn.metrics.composite import composite, log_likelihood_ratio, segmental_snr, weighted_spectral_slope
from gtcrn.metrics.failure import MetricFailure
from gtcrn.metrics.registry import DEFAULT_METRICS, DNSMOS_METRICS, METRICS, Function

# s; PESQ's reference code has room for 50 utterances, which speech has after about a minute and a half, and crashes
# the process on more
_LONGEST_PESQ = 40
_WIDEBAND = 16000  # Hz; PESQ, the composite measures and DNSMOS are defined up to this rate


class Scores(NamedTuple):
    """The scores of one pair. values: one per metric, nan where it failed. failures: {metric: reason}."""

    values: dict[str, float]
    failures: dict[str, str]


def evaluate_pair(
    clean: np.ndarray | None, enhanced: np.ndarray, sample_rate: int, metrics: Sequence[str] = DEFAULT_METRICS
) -> Scores:
    """Score `enhanced` against `clean`, both (N,) in [-1, 1] at `sample_rate` Hz.

    Without a clean signal (None) only the metrics that need no reference have a value. A metric that is undefined for
    the pair (silence, too short, not finite) is nan with its reason and never an exception.

    Raises UserError for an unknown metric, one whose package is missing, or signals that differ in shape.
    """
    check_metrics(metrics)
    if enhanced.ndim != 1 or (clean is not None and clean.shape != enhanced.shape):
        shapes = f"clean {None if clean is None else clean.shape} and enhanced {enhanced.shape}"
        raise UserError(f"{shapes}: must be (N,) and of the same length")
    measures = _Measures(clean, enhanced, sample_rate)
    values, failures = {}, {}
    for name in metrics:
        try:
            known = METRICS[name]
            measures.require_signals(known.reference)
            value = measures.by(known.function) if known.function else float(getattr(measures, name))
            if not math.isfinite(value):
                raise MetricFailure(f"is {value}")
            values[name] = value
        except MetricFailure as failure:
            values[name] = float("nan")
            failures[name] = str(failure)
    return Scores(values, failures)


def check_metrics(metrics: Sequence[str]) -> None:
    """Raise `UserError` for an unknown metric or one whose package is missing."""
    for name in metrics:
        if name not in METRICS:
            known = ", ".join(METRICS)
            raise UserError(f"metric {name!r} is unknown; choose from {known}; one of your own needs imports=[MODULE]")
        if name in DNSMOS_METRICS and not importlib.util.find_spec("speechmos"):
            raise UserError(f"metric {name!r} needs the package speechmos: pip install -e '.[dnsmos]'")


class _Measures:
    """The measures of one pair as attributes. One that several others are computed from is computed only once."""

    def __init__(self, clean: np.ndarray | None, enhanced: np.ndarray, sample_rate: int):
        # no measure that needs the reference runs without it, see `require_signals`
        self.clean: np.ndarray = None if clean is None else clean.astype(np.float64)  # type: ignore[assignment]
        self.enhanced = enhanced.astype(np.float64)
        self.sample_rate = sample_rate

    def require_signals(self, reference: bool) -> None:
        if reference and self.clean is None:
            raise MetricFailure("no clean reference")
        if not len(self.enhanced):
            raise MetricFailure("empty")
        if not np.isfinite(self.enhanced).all() or (reference and not np.isfinite(self.clean).all()):
            raise MetricFailure("not finite")
        if reference and not self.clean.any():
            raise MetricFailure("silent reference")

    def by(self, function: Function) -> float:
        try:
            return float(function(self.clean, self.enhanced, self.sample_rate))
        except MetricFailure:
            raise
        except Exception as error:  # a function of the user's may raise anything, after hours of training
            raise MetricFailure(" ".join(f"{type(error).__name__}: {error}".split())) from error

    def _at(self, sample_rate: int) -> tuple[np.ndarray, np.ndarray]:
        if sample_rate == self.sample_rate:
            return self.clean, self.enhanced
        clean, enhanced = (
            wave if wave is None else soxr.resample(wave, self.sample_rate, sample_rate, "VHQ")
            for wave in (self.clean, self.enhanced)
        )
        return clean, enhanced

    @cached_property
    def _wideband(self) -> tuple[np.ndarray, np.ndarray]:
        if self.sample_rate < _WIDEBAND:
            raise MetricFailure(f"needs at least {_WIDEBAND} Hz")
        return self._at(_WIDEBAND)

    @cached_property
    def pesq_wb(self) -> float:
        return self._pesq(*self._wideband, _WIDEBAND, "wb")

    @property
    def pesq_nb(self) -> float:
        sample_rate = _WIDEBAND if self.sample_rate >= _WIDEBAND else 8000
        return self._pesq(*self._at(sample_rate), sample_rate, "nb")

    @staticmethod
    def _pesq(clean: np.ndarray, enhanced: np.ndarray, sample_rate: int, mode: str) -> float:
        if not enhanced.any():
            raise MetricFailure("silent output")  # pesq divides by zero
        if len(clean) > _LONGEST_PESQ * sample_rate:
            raise MetricFailure(f"longer than {_LONGEST_PESQ} s, for which PESQ is not made")
        try:
            return pesq.pesq(sample_rate, clean, enhanced, mode)
        except pesq.PesqError as error:
            reason = error.args[0]
            raise MetricFailure(reason.decode() if isinstance(reason, bytes) else reason) from error
        except ValueError as error:  # PESQ is nan, e.g. for constant signals
            raise MetricFailure(str(error)) from error

    @property
    def stoi(self) -> float:
        return self._stoi(extended=False)

    @property
    def estoi(self) -> float:
        return self._stoi(extended=True)

    def _stoi(self, extended: bool) -> float:
        # pystoi removes silence; if too little is left, it warns and returns 1e-5
        with _dither_of_seed_0(), warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)
            try:
                return stoi(self.clean, self.enhanced, self.sample_rate, extended=extended)
            except (RuntimeWarning, ValueError) as error:
                raise MetricFailure("too short: under 0.4 s of speech") from error

    @property
    def si_sdr(self) -> float:
        return _scale_invariant_ratio(self.clean, self.enhanced)

    @property
    def si_snr(self) -> float:
        return _scale_invariant_ratio(self.clean - self.clean.mean(), self.enhanced - self.enhanced.mean())

    @cached_property
    def segsnr(self) -> float:
        return segmental_snr(*self._wideband, _WIDEBAND)

    @cached_property
    def llr(self) -> float:
        return log_likelihood_ratio(*self._wideband, _WIDEBAND)

    @cached_property
    def wss(self) -> float:
        return weighted_spectral_slope(*self._wideband, _WIDEBAND)

    @cached_property
    def _composite(self) -> tuple[float, float, float]:
        return composite(self.pesq_wb, self.llr, self.wss, self.segsnr)

    csig = property(lambda self: self._composite[0])
    cbak = property(lambda self: self._composite[1])
    covl = property(lambda self: self._composite[2])

    @cached_property
    def _dnsmos(self) -> dict[str, float]:
        from speechmos import dnsmos  # optional, and slow to import

        enhanced = self._wideband[1]
        return dnsmos.run(np.clip(enhanced, -1, 1), _WIDEBAND)

    dnsmos_sig = property(lambda self: self._dnsmos["sig_mos"])
    dnsmos_bak = property(lambda self: self._dnsmos["bak_mos"])
    dnsmos_ovrl = property(lambda self: self._dnsmos["ovrl_mos"])
    dnsmos_p808 = property(lambda self: self._dnsmos["p808_mos"])


@contextmanager
def _dither_of_seed_0() -> Iterator[None]:
    """Give the noise of 1e-16 that pystoi adds for ESTOI the same seed each time, so that scores agree to the bit."""
    state = np.random.get_state()
    np.random.seed(0)
    try:
        yield
    finally:
        np.random.set_state(state)


def _scale_invariant_ratio(clean: np.ndarray, enhanced: np.ndarray) -> float:
    """Return the SI-SDR in dB (Le Roux et al., SDR - half-baked or well done?, 2019); a perfect output gives 157.

    Raises MetricFailure if a signal is silent.
    """
    energy = clean @ clean
    if energy == 0:
        raise MetricFailure("constant reference")
    target = (clean @ enhanced) / energy * clean
    target_energy = target @ target
    if target_energy == 0:
        raise MetricFailure("silent output")
    distortion = enhanced - target
    return 10 * np.log10(target_energy / (distortion @ distortion + np.finfo(np.float64).eps * target_energy))
