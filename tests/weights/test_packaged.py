"""The weights of the package enhance real speech, as well as the registry says, and each has a card."""

import numpy as np
import pytest
import soundfile
import torch

import gtcrn
from gtcrn.metrics.pair import evaluate_pair
from gtcrn.models.pretrained import open_checkpoint
from gtcrn.quantization.checkpoint import holds_integers, load_simulation
from gtcrn.weights import entries

PACKAGED = [entry.name for entry in entries().values() if entry.packaged]


@pytest.mark.parametrize("name", PACKAGED)
def test_scores_are_those_of_the_registry(recordings, name):
    entry = entries()[name]
    load = load_simulation if holds_integers(open_checkpoint(name)) else gtcrn.load
    enhancer, stated = load(name), entry.measured["six_pairs"]
    scores = []
    for path in sorted((recordings / "vctk_demand_mini" / "noisy").glob("*.wav")):
        noisy, rate = soundfile.read(path, dtype="float32")
        clean, _ = soundfile.read(path.parents[1] / "clean" / path.name)
        with torch.inference_mode():
            enhanced, _ = enhancer(torch.from_numpy(noisy)[None])
        scores.append(evaluate_pair(clean, enhanced[0].double().numpy(), rate, list(stated)).values)
    for metric, value in stated.items():
        tolerance = 0.02 if metric == "si_snr" else 0.002  # a step of integers may fall otherwise on another processor
        assert np.mean([score[metric] for score in scores]) == pytest.approx(value, abs=tolerance)


@pytest.mark.parametrize("name", PACKAGED)
def test_a_card_tells_where_they_come_from_and_how_they_fail(name):
    entry = entries()[name]
    card = entry.packaged.with_suffix(".md").read_text()
    assert card.startswith(f"# {name}\n") and entry.licence in card
    for heading in ("## Data", "## Scores", "## Limits"):
        assert heading in card
