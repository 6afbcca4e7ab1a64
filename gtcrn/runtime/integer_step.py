"""A .tflite in integers as a step of spectra, with the float computations around it in numpy, as on the device.

spectrum -> |S|, re, im -> ERB bands -> codes -> [the integers] -> codes -> mask -> bins -> mask · spectrum
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from gtcrn.errors import UserError
from gtcrn.runtime.facts import BANDS, BandCodes, Signal, read_states
from gtcrn.runtime.framing import Step, Stream, stream_arguments
from gtcrn.runtime.integrity import Parts, read_parts

ERB = ("erb_analysis.npy", "erb_synthesis.npy")  # in a file's archive: the matrices from bins to bands and back
_EPS = np.float32(1e-12)  # inside the root of the magnitude, as in training


class IntegerStep:
    """A step of spectra (1, F, 1, 2) that runs a step of integer codes, (1, 1, bands, 6) -> (1, 1, bands, 2).

    path, parts: the file that holds the integers, and what it consists of. Raises UserError if a part is missing.
    """

    def __init__(self, codes: Step, path: Path, parts: Parts):
        self._codes = codes
        try:
            stated = BandCodes.read(parts.metadata)
            (scale, self._zero), (mask_scale, self._mask_zero) = (
                stated.quantization[name] for name in ("input", "output")
            )
            self._scale, self._mask_scale = np.float32(scale), np.float32(mask_scale)
            self._rho, self._low_bins = np.float32(stated.residual_gain), stated.low_bins
            self._limits = -(2 ** (stated.bits - 1)), 2 ** (stated.bits - 1) - 1
            self._analysis, self._synthesis = (matrix.T for matrix in erb_matrices(parts.members))
        except Exception as error:  # damaged numbers and matrices may raise anything
            raise UserError(f"{path}: integers whose metadata are damaged ({error}); export it again") from error

    def reset(self) -> None:
        self._codes.reset()

    def __call__(self, x: np.ndarray) -> np.ndarray:
        spectrum = x[0, :, 0].T  # (2, F)
        magnitude = np.sqrt(spectrum[0] ** 2 + spectrum[1] ** 2 + _EPS)
        bands = self._over_bands(np.stack([magnitude, *spectrum]), self._analysis)  # (3, bands)
        codes = self._codes(self.encode(bands))[0, 0].T
        mask = (codes.astype(np.float32) - self._mask_zero) * self._mask_scale
        real, imaginary = self._over_bands(mask, self._synthesis)
        y = real * spectrum[0] - imaginary * spectrum[1], real * spectrum[1] + imaginary * spectrum[0]
        return np.stack(y, axis=-1)[None, :, None]

    def encode(self, bands: np.ndarray) -> np.ndarray:
        """Return the codes of (3, bands), then those of their rounding errors times rho: (1, 1, bands, 6)."""
        high = (np.rint(bands / self._scale) + self._zero).clip(*self._limits)
        residual = self._rho * (bands - (high - self._zero) * self._scale)
        low = (np.rint(residual / self._scale) + self._zero).clip(*self._limits)
        return np.concatenate([high, low]).T[None, None]

    def _over_bands(self, x: np.ndarray, matrix: np.ndarray) -> np.ndarray:
        """Map bins to bands or back by a matrix; the lowest bins are bands themselves."""
        return np.concatenate([x[:, : self._low_bins], x[:, self._low_bins :] @ matrix], axis=1)


def erb_matrices(members: Mapping[str, bytes]) -> list[np.ndarray]:
    """Return the matrices of `ERB` from the archive of a file; damaged ones raise anything."""
    return [np.load(io.BytesIO(members[name])) for name in ERB]


class TFLiteMicro:
    """A step of integer codes in the interpreter for microcontrollers, from the package tflite-micro."""

    def __init__(self, path: Path, metadata: Mapping[str, str]):
        try:
            from tflite_micro import runtime
        except ImportError as error:
            raise UserError(
                f"{path}: running it in TFLite Micro needs tflite-micro (Linux on x86-64): pip install -e '.[device]'"
            ) from error
        self._interpreter = runtime.Interpreter.from_file(str(path), arena_size=1 << 20)
        inputs = [self._interpreter.get_input_details(i) for i in range(1 + len(read_states(metadata)))]
        self._first = [
            np.full(node["shape"], node["quantization_parameters"]["zero_points"][0], node["dtype"]) for node in inputs
        ]
        self.reset()

    def reset(self) -> None:
        self._input, *self._states = self._first

    def __call__(self, x: np.ndarray) -> np.ndarray:
        for number, value in enumerate([x.astype(self._input.dtype), *self._states]):
            self._interpreter.set_input(value, number)
        self._interpreter.invoke()
        self._states = [self._interpreter.get_output(1 + number) for number in range(len(self._states))]
        return self._interpreter.get_output(0)


def open_in_tflite_micro(path: str | Path) -> Stream:
    """Return a stream through a file in integers as a microcontroller runs it. Raises UserError for other files."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file; a .tflite of task=export in integers is needed")
    parts = read_parts(path)
    if parts.metadata.get("kind") != BANDS:
        raise UserError(f"{path}: no file in integers of this framework; see task=export format=litert quantize=int8")
    step = IntegerStep(TFLiteMicro(path, parts.metadata), path, parts)
    return Stream(*stream_arguments(step, Signal.read(parts.metadata)))
