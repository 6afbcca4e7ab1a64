"""Comparison of quantized files with the float model that they come from, in quality, size and time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from gtcrn.dsp.snr import measured_snr
from gtcrn.errors import UserError
from gtcrn.export.device.arena import arena_size
from gtcrn.export.exporting import Calibrated
from gtcrn.export.formats import FORMATS, load_quantizer
from gtcrn.export.quantizers.work import Work
from gtcrn.metrics import WavePair, score_pairs
from gtcrn.models.enhancer import Enhancer, SpectralEnhancer
from gtcrn.profiling import latency
from gtcrn.profiling.latency import SCORES, Pairs
from gtcrn.quantization.checkpoint import simulation
from gtcrn.quantization.network import Network
from gtcrn.runtime.eager import EnhancerStep

FLOAT, WEIGHTS = "float", "weights"
LEVELS = (1.0, 0.1, 2.0)  # factors of the recordings; the unscaled ones first
LEFT = ["file", "operator", "why"]
_EXCERPT = 2  # s of each recording, over which single tensors are rounded
_TIMED = 10  # s of audio


class Variant(NamedTuple):
    """An exported file, and how it was quantized, as far as known: a trained network, or calibrated by a quantizer."""

    name: str
    path: Path
    integers: Network | Calibrated | None = None


class Comparison(NamedTuple):
    """The tables of a comparison.

    summary: a row for the float model and one per file, with its scores on the unscaled recordings; the `snr` of its
        output against the float model's in dB, mean over recordings, its least, `snr_min`, and at other levels
        `snr_0.1`, …; shares, bytes, and `step_ms`, processor time for a hop.
    operators: counts of each kind, by file; operators on floats are named so.
    left: operators that multiply in float, a row each, of the files with integers.
    layers: the output SNR in dB if one tensor alone is rounded, or all weights alone, by network.
    tensors: the SNR in dB of tensors inside a file against those of its float source, by file.
    """

    summary: pd.DataFrame
    operators: pd.DataFrame
    left: pd.DataFrame
    layers: pd.DataFrame
    tensors: pd.DataFrame


def measure(enhancer: Enhancer, variants: Sequence[Variant], pairs: Pairs, workers: int = -1) -> Comparison:
    """Compare exported files, all at the enhancer's rate and each given once, with the float enhancer.

    pairs: noisy and clean (N,) by name, at the enhancer's rate. The packages that run the files must be installed.
    Raises `UserError` naming a file that does not run.
    """
    candidates = latency.find_candidates([variant.path for variant in variants])
    outputs = {FLOAT: {level: _float_outputs(enhancer, pairs, level) for level in LEVELS}}
    for variant, candidate in tqdm(list(zip(variants, candidates)), "enhancing", unit="file", disable=None):
        outputs[variant.name] = {
            level: {name: latency.enhance(candidate.runner, _at(level, noisy)) for name, (noisy, _) in pairs.items()}
            for level in LEVELS
        }
    summary = _scores(outputs, pairs, enhancer.sample_rate, workers)
    done = {variant.name: work(variant.path) for variant in variants}
    for variant in variants:
        facts = {"integer_macs": done[variant.name].share, "bytes": variant.path.stat().st_size}
        if variant.path.suffix == ".tflite":
            facts["arena_bytes"] = arena_size(variant.path.read_bytes())
        summary.loc[variant.name, list(facts)] = pd.Series(facts, dtype=float)
    noisy = np.concatenate([noisy for noisy, _ in pairs.values()])
    calls = [call for call in latency.timed_calls(candidates, noisy) if call.call == latency.PROCESS]
    for variant, timing in zip(variants, latency.measure(calls, _TIMED)):
        summary.loc[variant.name, "step_ms"] = np.median(timing.processor)
    excerpts = _excerpts(pairs, _EXCERPT * enhancer.sample_rate)
    networks = {variant.name: variant.integers for variant in variants if isinstance(variant.integers, Network)}
    layers = {
        name: layer_errors(enhancer, network, excerpts)
        for name, network in tqdm(networks.items(), "rounding one tensor at a time", unit="network", disable=None)
    }
    tensors = {
        variant.name: _quantizer(variant.path).tensor_errors(
            variant.integers.source, variant.path, excerpts.flatten().numpy()
        )
        for variant in variants
        if isinstance(variant.integers, Calibrated)
    }
    return Comparison(
        summary,
        pd.DataFrame({name: part.operators for name, part in done.items()}).fillna(0).astype(int),
        pd.DataFrame(
            [(name, *left) for name, part in done.items() if part.integers for left in part.left.items()], columns=LEFT
        ),
        _in_order(layers),
        _in_order(tensors),
    )


def work(path: Path) -> Work:
    """Return how much a file's runtime computes in integers. Raises `UserError` for a file of another kind."""
    return _quantizer(path).work(path)


def _quantizer(path: Path) -> ModuleType:
    for name, format in FORMATS.items():
        if format.quantizer and format.suffix.endswith(path.suffix):
            return load_quantizer(name)
    raise UserError(f"{path}: integers are of .tflite and .onnx files")


@torch.inference_mode()
def layer_errors(enhancer: SpectralEnhancer, network: Network, waves: Tensor) -> pd.Series:
    """Return the output SNR in dB if all weights of the network alone are rounded, or one tensor, by name in order.

    waves: (B, N). The reference is the network with its own float weights, so that their training does not count as
    an error.
    """
    spectra, simulated = enhancer.spectra(waves), simulation(enhancer, network).core
    errors = {}
    try:
        network.quantized, network.quantized_weights = frozenset(), False
        exact, _ = simulated(spectra)
        network.quantized_weights = True
        errors[WEIGHTS] = measured_snr(simulated(spectra)[0].numpy(), exact.numpy())
        network.quantized_weights = False
        for owner in network.program.owners():
            network.quantized = {owner}
            errors[owner] = measured_snr(simulated(spectra)[0].numpy(), exact.numpy())
    finally:
        network.quantize()
    return pd.Series(errors)


def _float_outputs(enhancer: Enhancer, pairs: Pairs, level: float) -> dict[str, np.ndarray]:
    """Enhance every recording by a stream, in one call, and remove the delay."""
    outputs = {}
    for name, (noisy, _) in pairs.items():
        late = enhancer.latency + -(len(noisy) + enhancer.latency) % enhancer.hop_length
        streamed = EnhancerStep(enhancer)(np.pad(_at(level, noisy), (0, late))[None])
        outputs[name] = streamed[0, enhancer.latency :][: len(noisy)]
    return outputs


def _scores(outputs: Mapping, pairs: Pairs, sample_rate: int, workers: int) -> pd.DataFrame:
    unscaled = LEVELS[0]
    scored = [
        WavePair(name, clean=pairs[name][1], enhanced=wave, info={"system": system})
        for system, levels in outputs.items()
        for name, wave in levels[unscaled].items()
    ]
    scores = score_pairs(scored, SCORES, sample_rate, workers)
    means = scores.groupby("system", sort=False)[[f"enhanced_{metric}" for metric in SCORES]].mean()
    means.columns = list(SCORES)
    for system, levels in list(outputs.items())[1:]:
        for level, waves in levels.items():
            snr = [measured_snr(wave, outputs[FLOAT][level][name]) for name, wave in waves.items()]
            if level == unscaled:
                means.loc[system, ["snr", "snr_min"]] = np.mean(snr), min(snr)
            else:
                means.loc[system, f"snr_{level:g}"] = np.mean(snr)
    return means.rename_axis("name")


def _in_order(layers: Mapping[str, pd.Series]) -> pd.DataFrame:
    """Return a table with a column per network or file, and a row per tensor in their order."""
    return pd.DataFrame(layers, index=list(dict.fromkeys(name for column in layers.values() for name in column.index)))


def _at(level: float, wave: np.ndarray) -> np.ndarray:
    return np.float32(level) * wave


def _excerpts(pairs: Pairs, length: int) -> Tensor:
    """Return the middle of every recording, (B, N); shorter recordings are repeated."""
    begin = {name: max(0, (len(noisy) - length) // 2) for name, (noisy, _) in pairs.items()}
    parts = [np.resize(noisy[begin[name] :][:length], length) for name, (noisy, _) in pairs.items()]
    return torch.from_numpy(np.stack(parts))
