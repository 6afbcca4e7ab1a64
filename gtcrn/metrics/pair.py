"""The measures of one pair of signals, each with the reason where it has no value."""

from __future__ import annotations

import importlib
import math
import warnings
from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
import pesq
import soxr
from pystoi import stoi

from gtcrn.errors import UserError
from gtcrn.metrics import networks
from gtcrn.metrics.attenuation import Components, attenuation, components
from gtcrn.metrics.composite import composite, log_likelihood_ratio, segmental_snr, weighted_spectral_slope
from gtcrn.metrics.failure import MetricFailure
from gtcrn.metrics.registry import DEFAULT_METRICS, METRICS, Metric
from gtcrn.metrics.spectra import log_spectral_distance, mel_cepstral_distortion

# s; PESQ's reference code has room for 50 utterances, which speech has after about a minute and a half, and crashes
# the process on more
_LONGEST_PESQ = 40
_WIDEBAND = 16000  # Hz; all but STOI, SI-SDR, SI-SNR and the attenuations are defined up to this rate


class Scores(NamedTuple):
    """The scores of one pair. values: one per metric, nan where it failed. failures: {metric: reason}."""

    values: dict[str, float]
    failures: dict[str, str]


def evaluate_pair(
    clean: np.ndarray | None,
    enhanced: np.ndarray,
    sample_rate: int,
    metrics: Sequence[str] = DEFAULT_METRICS,
    noisy: np.ndarray | None = None,
) -> Scores:
    """Score `enhanced` against `clean`, both (N,) in [-1, 1] at `sample_rate` Hz.

    Without a clean signal (None) only the metrics that need no reference have a value, and without the noisy one, (N,)
    too, none of those that compare what was there with what is left. A metric that is undefined for the pair (silence,
    too short, not finite) is nan with its reason and never an exception.

    Raises UserError for an unknown metric, one whose package is missing, or signals that differ in shape.
    """
    check_metrics(metrics)
    given = {"clean": clean, "enhanced": enhanced, "noisy": noisy}
    shapes = {role: wave.shape for role, wave in given.items() if wave is not None}
    if enhanced.ndim != 1 or len(set(shapes.values())) > 1:
        listed = " and ".join(f"{role} {shape}" for role, shape in shapes.items())
        raise UserError(f"{listed}: must be (N,) and of the same length")
    measures = _Measures(clean, enhanced, noisy, sample_rate)
    values, failures = {}, {}
    for name in metrics:
        known = METRICS[name]
        try:
            measures.require_signals(known)
            value = float(known.function(*measures.pair) if known.function else getattr(measures, name))
            if not math.isfinite(value):
                raise MetricFailure(f"is {value}")
            values[name] = value
        except Exception as error:
            values[name] = float("nan")
            failures[name] = _reason(error, known)
    return Scores(values, failures)


def _reason(error: Exception, metric: Metric) -> str:
    """Return why a metric failed. Raises the error if it is none that the metric may raise."""
    if isinstance(error, MetricFailure):
        return str(error)
    if metric.function or metric.extra:  # code of the user's or a package's, after hours of training
        return " ".join(f"{type(error).__name__}: {error}".split())
    raise error


def check_metrics(metrics: Sequence[str]) -> None:
    """Raise `UserError` for an unknown metric or one whose package is missing or can't be imported."""
    missing: dict[str, tuple[str, str]] = {}
    for name in metrics:
        if name not in METRICS:
            known = ", ".join(METRICS)
            raise UserError(f"metric {name!r} is unknown; choose from {known}; one of your own needs imports=[MODULE]")
        for package in METRICS[name].packages:
            try:
                with warnings.catch_warnings():  # packages warn of parts of their own, which say nothing of a measure
                    warnings.simplefilter("ignore")
                    importlib.import_module(package.lower().replace("-", "_"))
            except (ImportError, OSError) as error:  # OSError: a library that it loads is missing
                missing.setdefault(name, (package, " ".join(str(error).split())))
    if missing:
        name, (package, reason) = next(iter(missing.items()))
        extras = ",".join(sorted({METRICS[each].extra for each in missing}))
        raise UserError(f"metric {name!r} needs the package {package}: pip install -e '.[{extras}]' ({reason})")


class _Measures:
    """The measures of one pair as attributes. One that several others are computed from is computed only once."""

    def __init__(self, clean: np.ndarray | None, enhanced: np.ndarray, noisy: np.ndarray | None, sample_rate: int):
        # no measure that needs the clean or the noisy signal runs without it, see `require_signals`
        self.clean: np.ndarray = None if clean is None else clean.astype(np.float64)  # type: ignore[assignment]
        self.noisy: np.ndarray = None if noisy is None else noisy.astype(np.float64)  # type: ignore[assignment]
        self.enhanced = enhanced.astype(np.float64)
        self.sample_rate = sample_rate

    @property
    def pair(self) -> tuple[np.ndarray, np.ndarray, int]:
        return self.clean, self.enhanced, self.sample_rate

    def require_signals(self, metric: Metric) -> None:
        if metric.reference and self.clean is None:
            raise MetricFailure("no clean reference")
        if metric.noisy and self.noisy is None:
            raise MetricFailure("no noisy signal")
        if not len(self.enhanced):
            raise MetricFailure("empty")
        needed = [self.enhanced, *[self.clean] * metric.reference, *[self.noisy] * metric.noisy]
        if not all(np.isfinite(wave).all() for wave in needed):
            raise MetricFailure("not finite")
        if metric.reference and not self.clean.any():
            raise MetricFailure("silent reference")

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
        # pystoi removes silence; if too little is left, it warns and returns 1e-5. To ESTOI it adds noise of 1e-16
        with networks.seed_0(), warnings.catch_warnings():
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

    @property
    def lsd(self) -> float:
        return log_spectral_distance(*self._wideband, _WIDEBAND)

    @property
    def mcd(self) -> float:
        return mel_cepstral_distortion(*self._wideband, _WIDEBAND)

    @cached_property
    def _components(self) -> Components:
        return components(self.clean, self.noisy, self.enhanced, self.sample_rate)

    @property
    def speech_att(self) -> float:
        return attenuation(self._components.speech, self._components.speech_left)

    @property
    def noise_att(self) -> float:
        return attenuation(self._components.noise, self._components.noise_left)

    @cached_property
    def _dnsmos(self) -> dict[str, float]:
        return networks.dnsmos(self._wideband[1])

    dnsmos_sig = property(lambda self: self._dnsmos["sig_mos"])
    dnsmos_bak = property(lambda self: self._dnsmos["bak_mos"])
    dnsmos_ovrl = property(lambda self: self._dnsmos["ovrl_mos"])
    dnsmos_p808 = property(lambda self: self._dnsmos["p808_mos"])
    plcmos = property(lambda self: networks.plcmos(self._wideband[1]))
    distillmos = property(lambda self: networks.distillmos(self._wideband[1]))
    speaker_sim = property(lambda self: networks.speaker_similarity(*self._wideband))
    wer = property(lambda self: networks.word_error_rate(*self._wideband))


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
