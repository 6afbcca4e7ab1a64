"""The facts that are written into an exported file: its signal, its states, whose weights it holds, and its licence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from gtcrn.export.graph import Graph
from gtcrn.models.enhancer import Enhancer, FrameEnhancer
from gtcrn.models.pretrained import PUBLISHED, Checkpoint
from gtcrn.revision import revision
from gtcrn.runtime.facts import ModelFacts, Signal


class Weights(NamedTuple):
    """The origin and licence of weights. scores: measure by measure, and where they stand; "" if none are known."""

    origin: str
    licence: str
    scores: str = ""


_GTCRN = "GTCRN trained on DNS3 by its authors (Rong et al., ICASSP 2024; github.com/Xiaobin-Rong/gtcrn)"
_GTCRN_SCORES = (
    "DNSMOS P.808 3.44, SIG 3.00, BAK 3.90, OVRL 2.70 on the blind test set of DNS3 (the repository's table, which "
    "does not say of which epoch)"
)
_DTLN = "DTLN trained on the DNS Challenge 2020 by its author (Westhausen and Meyer, Interspeech 2020; "
_DTLN_TEST = "on the non-reverberant test set of the DNS Challenge 2020 (the repository's table)"
_DTLN_SCORES = f"PESQ-wb 3.04, STOI 94.76 %, SI-SDR 16.34 dB {_DTLN_TEST}"

# by the SHA-256 of the file: whoever trains with an author's code writes files of the same format
KNOWN = {
    "a630d992cf792daf4ce2bb5bcf9c4d389f740a8f09c6e0971184697fe6371b79": Weights(
        f"{_GTCRN}, epoch 87", "MIT", _GTCRN_SCORES
    ),
    "250fa2820ea9947704a62dda8e642ba773a067719c5e4294ad95aeab23f06442": Weights(
        f"{_GTCRN}, epoch 96", "MIT", _GTCRN_SCORES
    ),
    "2436cf52d59370ad0d0cf4e248947d7960e446d60a4b3f75d3893b78b11b9458": Weights(
        "GTCRN-Light v3 trained on VCTK-DEMAND by its author (github.com/zerong7777-boop/gtcrn-light), epoch 78",
        "MIT",
        "PESQ-wb 2.60, STOI 0.934, ESTOI 0.830, SI-SNR 17.89 dB in a VCTK-DEMAND style setting, with 352 ms of "
        "look-ahead (the repository's README)",
    ),
    "70a9f93ea7228e192449a22e16036730cb172b2b74b032c59fcdbc39ddb8ed9a": Weights(
        "GTCRN-Micro trained on DNS3 by its author (github.com/bglid/GTCRN-Micro), epoch 157",
        "MIT",
        "PESQ 1.79, STOI 0.82, SI-SNR 8.39 dB, SDR 8.72 dB on a synthetic test set of DNS3 (the repository's README)",
    ),
    "5a6804aa1428fe2782eb804d1a6394fa35ec58c2eef2d14ba5bb172721ef29d9": Weights(
        f"{_DTLN}github.com/breizhn/DTLN, 500 h), its model.h5 as converted to PyTorch",
        "Apache-2.0 (the conversion), MIT (the original)",
        _DTLN_SCORES,
    ),
    "b6e9ecb8140f51e8ffb373884b62e186dc166e97995fa7eea3fffcc6ef30d55d": Weights(
        f"{_DTLN}github.com/breizhn/DTLN, 500 h), its model.h5", "MIT", _DTLN_SCORES
    ),
    "faa7b6eba94dda64e7340e718f19d127a47a041e4aa6002c15efc9ab2aecd1fa": Weights(
        f"{_DTLN}github.com/breizhn/DTLN, 40 h), its DTLN_norm_40h.h5",
        "MIT",
        f"PESQ-wb 3.05, STOI 94.57 %, SI-SDR 16.88 dB {_DTLN_TEST}",
    ),
}
UNSTATED = "not stated"  # a licence


def weights_of(checkpoint: Checkpoint, choices: Mapping[str, str] | None = None) -> Weights:
    """Return what is known of the weights in a file: of published files all, of others no licence, and what is sure.

    choices: of the run that trained them, by configuration group, see `gtcrn.reports.runs.choices_of`.
    """
    digest = checkpoint.digest
    if digest in KNOWN:
        return KNOWN[digest]
    if checkpoint.system in {published.name for published in PUBLISHED}:
        return Weights(
            f"an unknown checkpoint in the format of {checkpoint.system}'s authors, SHA-256 {digest}", UNSTATED
        )
    trained = "a checkpoint of this framework, away from the run that trained it"
    if choices:
        trained = " ".join(["trained with this framework:", *(f"{group}={choices[group]}" for group in choices)])
    return Weights(f"{trained}, SHA-256 {digest}", UNSTATED)


def system_name(enhancer: Enhancer) -> str:
    """Return what its authors call the system."""
    names = {published.core: published.name for published in PUBLISHED}
    return names.get(type(enhancer.core), type(enhancer.core).__name__)


def describe(graph: Graph, enhancer: Enhancer, weights: Weights) -> ModelFacts:
    """Return what a file of this graph says of itself. enhancer: the model that the graph was made of."""
    window = enhancer.framing.window_name if isinstance(enhancer, FrameEnhancer) else "none"
    sizes = enhancer.sample_rate, enhancer.window_length, enhancer.hop_length, enhancer.latency
    return ModelFacts(
        system=system_name(enhancer),
        signal=Signal(graph.kind, *sizes, window),
        states={name: list(state.shape) for name, state in graph.states.items()},
        licence=weights.licence,
        origin=weights.origin,
        revision=revision(),
        integers=graph.integers,
        input_level=enhancer.input_level,
    )
