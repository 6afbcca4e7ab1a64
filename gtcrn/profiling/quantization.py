"""What integers save and cost: exported files beside the float model that they come from."""

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
LEVELS = (1.0, 0.1, 2.0)  # of the recordings, as they are first
LEFT = ["file", "operator", "why"]
_EXCERPT = 2  # s of each recording, over which single tensors are rounded
_TIMED = 10  # s of audio


class Variant(NamedTuple):
    """path: an exported file. integers: how it got them, as far as known."""

    name: str
    path: Path
    integers: Network | Calibrated | None = None


class Report(NamedTuple):
    """summary: a row for the float model and one per file: its scores on the recordings as they are; `snr` of its
    output against the float model's in dB, mean over recordings, `snr_min`, and at other levels `snr_0.1`, …; shares,
    bytes, and `step_ms` of processor time for a hop. operators: how many of each kind, by file; those that hold a float
    are named so. left: of files with integers, those that multiply in float, a row each.
    layers: the output SNR in dB if one tensor alone is rounded, or all weights alone, by network. tensors: the SNR in
    dB of tensors inside a file against its source's, by file.
    """

    summary: pd.DataFrame
    operators: pd.DataFrame
    left: pd.DataFrame
    layers: pd.DataFrame
    tensors: pd.DataFrame


def measure(enhancer: Enhancer, variants: Sequence[Variant], pairs: Pairs, workers: int = -1) -> Report:
    """pairs: noisy and clean (N,) by name, at the enhancer's rate. Needs the packages that run the files.

    All files at the enhancer's rate, each once. Raises `UserError` naming a file that does not run.
    """
    taking_part = latency.participants([variant.path for variant in variants])
    outputs = {FLOAT: {level: _float_outputs(enhancer, pairs, level) for level in LEVELS}}
    for variant, part in tqdm(list(zip(variants, taking_part)), "enhancing", unit="file", disable=None):
        outputs[variant.name] = {
            level: {name: latency.enhance(part.runner, _at(level, noisy)) for name, (noisy, _) in pairs.items()}
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
    entries = [entry for entry in latency.entries(taking_part, noisy) if entry.call == latency.PROCESS]
    for variant, timing in zip(variants, latency.measure(entries, _TIMED)):
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
    return Report(
        summary,
        pd.DataFrame({name: part.operators for name, part in done.items()}).fillna(0).astype(int),
        pd.DataFrame(
            [(name, *left) for name, part in done.items() if part.integers for left in part.left.items()], columns=LEFT
        ),
        _in_order(layers),
        _in_order(tensors),
    )


def work(path: Path) -> Work:
    """What a file's runtime computes in integers. Raises `UserError` for a file of another kind."""
    return _quantizer(path).work(path)


def _quantizer(path: Path) -> ModuleType:
    for name, format in FORMATS.items():
        if format.quantizer and format.suffix.endswith(path.suffix):
            return load_quantizer(name)
    raise UserError(f"{path}: integers are of .tflite and .onnx files")


@torch.inference_mode()
def layer_errors(enhancer: SpectralEnhancer, network: Network, waves: Tensor) -> pd.Series:
    """The output SNR in dB if all weights of the network alone are rounded, or one tensor, by name and in order.

    waves: (B, N). What is not rounded has the network's own float weights, so that training them is no error.
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
    """Streamed, all of a recording in one call, without the delay."""
    outputs = {}
    for name, (noisy, _) in pairs.items():
        late = enhancer.latency + -(len(noisy) + enhancer.latency) % enhancer.hop_length
        streamed = EnhancerStep(enhancer)(np.pad(_at(level, noisy), (0, late))[None])
        outputs[name] = streamed[0, enhancer.latency :][: len(noisy)]
    return outputs


def _scores(outputs: Mapping, pairs: Pairs, sample_rate: int, workers: int) -> pd.DataFrame:
    as_they_are = LEVELS[0]
    scored = [
        WavePair(name, clean=pairs[name][1], enhanced=wave, info={"system": system})
        for system, levels in outputs.items()
        for name, wave in levels[as_they_are].items()
    ]
    scores = score_pairs(scored, SCORES, sample_rate, workers)
    means = scores.groupby("system", sort=False)[[f"enhanced_{metric}" for metric in SCORES]].mean()
    means.columns = list(SCORES)
    for system, levels in list(outputs.items())[1:]:
        for level, waves in levels.items():
            snr = [measured_snr(wave, outputs[FLOAT][level][name]) for name, wave in waves.items()]
            if level == as_they_are:
                means.loc[system, ["snr", "snr_min"]] = np.mean(snr), min(snr)
            else:
                means.loc[system, f"snr_{level:g}"] = np.mean(snr)
    return means.rename_axis("name")


def _in_order(layers: Mapping[str, pd.Series]) -> pd.DataFrame:
    """A column each; tensors as the networks have them."""
    return pd.DataFrame(layers, index=list(dict.fromkeys(name for column in layers.values() for name in column.index)))


def _at(level: float, wave: np.ndarray) -> np.ndarray:
    return np.float32(level) * wave


def _excerpts(pairs: Pairs, length: int) -> Tensor:
    """The middle of every recording, (B, N); shorter ones are repeated."""
    begin = {name: max(0, (len(noisy) - length) // 2) for name, (noisy, _) in pairs.items()}
    parts = [np.resize(noisy[begin[name] :][:length], length) for name, (noisy, _) in pairs.items()]
    return torch.from_numpy(np.stack(parts))
