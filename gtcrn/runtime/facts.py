"""Facts that an exported file states about itself: dataclasses here, strings only in the file.

ONNX has pairs of strings for it, other formats a `metadata.json`, see `gtcrn.runtime.integrity`. Needs no package.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import isfinite

from gtcrn.errors import UserError

SPECTRUM, WAVE, BANDS = KINDS = ("spectrum", "wave", "bands")  # of a file's first input
# what a file may state: Hz, and samples
LIMITS = {"sample_rate": (1000, 768000), "n_fft": (1, 2**16), "hop_length": (1, 2**16), "latency": (0, 2**20)}


@dataclass(frozen=True)
class Signal:
    """The facts about a model that a stream through it needs.

    kind: of its first input, one of `KINDS`; `BANDS` is of integers between ERB bands and mask. sample_rate: Hz.
    n_fft, hop_length, latency: samples; the latency is that of the output, the wait for a complete hop not included.
    window: of its frames, one of `gtcrn.dsp.window.WINDOWS`, or `none` without frames.
    """

    kind: str
    sample_rate: int
    n_fft: int
    hop_length: int
    latency: int
    window: str = "hann_sqrt"

    @classmethod
    def read(cls, metadata: Mapping[str, str | int]) -> Signal:
        """Return what a file's metadata says of its signal.

        Raises UserError for a number that is missing, no whole number, or one that no model has, and without a kind.
        """
        numbers = {key: read_number(metadata, key) for key in LIMITS}
        for key, (lowest, highest) in LIMITS.items():
            if not lowest <= numbers[key] <= highest:
                raise UserError(f"{key}={str(metadata[key])[:50]}: must lie between {lowest} and {highest}")
        kind = metadata.get("kind", "not stated")
        if kind not in KINDS:
            raise UserError(f"kind={str(kind)[:50]}: must be one of {', '.join(KINDS)}")
        return cls(kind, **numbers, window=str(metadata.get("window", cls.window)))

    @property
    def hop_ms(self) -> float:
        return 1e3 * self.hop_length / self.sample_rate

    @property
    def latency_ms(self) -> float:
        return 1e3 * self.latency / self.sample_rate

    @property
    def total_ms(self) -> float:
        """Milliseconds from a sample's arrival to its output, the wait for a complete hop included."""
        return 1e3 * (self.hop_length + self.latency) / self.sample_rate


@dataclass(frozen=True)
class BandCodes:
    """The coding of the bands that go into a network in integers, and of the mask that it gives.

    bits: of a code of the bands. residual_gain: by which what rounding leaves is multiplied before it is rounded too.
    low_bins: how many bins are bands of their own. quantization: scale and zero point by the name of the tensor.
    """

    bits: int
    residual_gain: int
    low_bins: int
    quantization: dict[str, tuple[float, int]]

    @classmethod
    def read(cls, metadata: Mapping[str, str]) -> BandCodes:
        """Return what a file's metadata says of its codes; damaged ones raise anything."""
        bits, residual_gain, low_bins = (int(metadata[key]) for key in ("bits", "residual_gain", "low_bins"))
        return cls(bits, residual_gain, low_bins, json.loads(metadata["quantization"]))


@dataclass(frozen=True)
class Integers:
    """The facts that a file states about its integers; None for what does not apply to it.

    quantize: the key of task=export that they are of. codes, bands: of a file of kind `BANDS`, and the number of its
    bands. operators: how many of each kind. int16_macs: the share of multiplications with 16-bit activations.
    share: of multiplications by integers, 0 to 1. left: the kinds of operators that multiply in float, and why.
    snr: of the output against the float model's, dB. check: how far operators are from the simulated ones, in words.
    """

    quantize: str
    codes: BandCodes | None = None
    bands: int | None = None
    operators: dict[str, int] | None = None
    int16_macs: float | None = None
    share: float | None = None
    left: dict[str, str] | None = None
    snr: float | None = None
    check: str | None = None

    def metadata(self) -> dict[str, str]:
        """Return the strings that are written into the file."""
        codes = asdict(self.codes) if self.codes else {}
        stated = {
            "quantize": self.quantize,
            "bits": codes.get("bits"),
            "residual_gain": codes.get("residual_gain"),
            "bands": self.bands,
            "low_bins": codes.get("low_bins"),
            "quantization": codes.get("quantization"),
            "operators": self.operators,
            "int16_macs": self.int16_macs,
            "integer_macs": self.share,
            "left_in_float": self.left,
            "snr_db": None if self.snr is None else f"{self.snr:.1f}",
            "check": self.check,
        }
        return {key: _text(value) for key, value in stated.items() if value is not None}


@dataclass(frozen=True)
class ModelFacts:
    """All facts that an exported file states about itself.

    system: as its authors call it. states: their shapes by their names, in the order of the inputs after the first.
    licence, origin: of the weights. revision: of the code that wrote it. integers: None of a file of floats.
    input_level: dBFS that the model was trained at, as of noisy speech where it is active; None if it is not known.
    """

    system: str
    signal: Signal
    states: dict[str, list[int]]
    licence: str
    origin: str
    revision: str
    integers: Integers | None = None
    input_level: float | None = None

    def metadata(self) -> dict[str, str]:
        """Return the strings that are written into the file; states as JSON [[name, shape], …]."""
        signal = self.signal
        return {
            "system": self.system,
            "kind": signal.kind,
            "sample_rate": str(signal.sample_rate),
            "n_fft": str(signal.n_fft),
            "hop_length": str(signal.hop_length),
            "window": signal.window,
            "latency": str(signal.latency),
            "states": json.dumps(list(self.states.items())),
            "licence": self.licence,
            "origin": self.origin,
            "revision": self.revision,
            **({} if self.input_level is None else {"input_level": _text(self.input_level)}),
            **(self.integers.metadata() if self.integers else {}),
        }


def _text(value: str | float | dict) -> str:
    match value:
        case float():
            return f"{value:g}"
        case dict():
            return json.dumps(value)
    return str(value)


def read_number(metadata: Mapping[str, str | int], key: str) -> int:
    """Return a whole number that a file states. Raises UserError if it states none."""
    try:
        return int(metadata[key])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        stated = str(metadata[key])[:50] if key in metadata else "not stated"
        raise UserError(f"{key}={stated}: must be a whole number") from error


def read_input_level(metadata: Mapping[str, str]) -> float | None:
    """Return the level in dBFS that a file says its model was trained at, None if it states no number."""
    try:
        level = float(metadata["input_level"])
    except (KeyError, TypeError, ValueError):
        return None
    return level if isfinite(level) else None


def read_states(metadata: Mapping[str, str]) -> dict[str, list[int]]:
    """Return the shapes of a file's states by their names, in order.

    Raises KeyError, TypeError or ValueError if the metadata does not state them.
    """
    return dict(json.loads(metadata["states"]))
