"""The float part around a network of integers in C: samples to codes of bands, and codes of a mask to samples."""

from __future__ import annotations

from pathlib import Path
from string import Template

import numpy as np

from gtcrn.dsp.window import analysis_window
from gtcrn.errors import UserError
from gtcrn.export.device.quantized import QuantizedTensor
from gtcrn.runtime.facts import Signal

PARTS = Path(__file__).parent / "parts"


def float_part(
    signal: Signal, residual_gain: int, input: QuantizedTensor, mask: QuantizedTensor, erb: np.ndarray, linkage: str
) -> dict[str, object]:
    """Return the values of the float part by their names in templates, the text of its C among them.

    erb: (bands, bins), see `erb_bank`. linkage: before the functions, "" or "static ".

    Raises UserError for an STFT that the C code has not, and for ERB bands of which more than two share a bin.
    """
    n_fft, hop, (bands, bins) = signal.n_fft, signal.hop_length, erb.shape
    if n_fft & (n_fft - 1) or not 0 < hop < n_fft or n_fft % hop:
        raise UserError(f"n_fft={n_fft}, hop_length={hop}: the C code needs a power of 2 and a divisor of it")
    limits = np.iinfo(f"int{input.bits}")
    values = {
        "sample_rate": signal.sample_rate,
        "n_fft": n_fft,
        "hop_length": hop,
        "latency": n_fft - hop,
        "bands": bands,
        "bins": bins,
        "residual_gain": residual_gain,
        "input_size": input.size,
        "input_bits": input.bits,
        "input_min": limits.min,
        "input_max": limits.max,
        "input_scale": decimal(input.scale),
        "input_zero": input.zero,
        "mask_size": mask.size,
        "mask_bits": mask.bits,
        "mask_scale": decimal(mask.scale),
        "mask_zero": mask.zero,
        "linkage": linkage,
    }
    texts = {path.stem: Template(path.read_text(encoding="utf-8")).substitute(values) for path in PARTS.iterdir()}
    sine = analysis_window("hann_sqrt", n_fft)[: n_fft // 2 + 1]
    sine_rows = rows([decimal(value) for value in sine], 8)
    return values | texts | {"bin_rows": ",\n".join(_bins(erb)), "sine_rows": sine_rows}


def erb_bank(analysis: np.ndarray, synthesis: np.ndarray, bins: int) -> np.ndarray:
    """Return (bands, bins) from the matrices of the bins above those that are bands of their own.

    Raises UserError if the way back is another than the way there.
    """
    bands, high = analysis.shape
    if high >= bins or not np.allclose(analysis, synthesis.T, rtol=0, atol=1e-6):
        raise UserError("its way from bands to bins is not that from bins to bands, as the C code has it")
    low = bins - high
    erb = np.zeros((low + bands, bins), np.float32)
    erb[:low, :low] = np.eye(low)
    erb[low:, low:] = analysis
    return erb


def decimal(value: float) -> str:
    """Return the shortest decimal that is this number in 32 bits, as C writes it."""
    digits = str(np.float32(value))
    return digits + ("" if "." in digits or "e" in digits else ".0") + "f"


def rows(words: list[str], width: int) -> str:
    """Return the words of a table in C, so many in a line."""
    lines = (words[begin : begin + width] for begin in range(0, len(words), width))
    return ",\n".join("    " + ", ".join(line) for line in lines)


def _bins(erb: np.ndarray) -> list[str]:
    """Return a line for every bin: its two weights and the band of the first."""
    bands, bins = erb.shape
    first = np.minimum(np.argmax(erb != 0, axis=0), bands - 2)
    pairs = erb[first, range(bins)], erb[first + 1, range(bins)]
    if np.count_nonzero(pairs) != np.count_nonzero(erb):
        raise UserError("ERB bands of which more than two neighbours share a bin have no form in the C code")
    return [
        f"    {{{decimal(weight)}, {decimal(following)}, {band}}}" for weight, following, band in zip(*pairs, first)
    ]
