"""The perceptual terms are the measures that the field reports, and train where those do."""

import numpy as np
import pesq
import pytest
import soundfile
import torch
from fixtures.signals import speech_like
from pystoi import stoi

from gtcrn.errors import UserError
from gtcrn.losses import PESQ, STOI, Signals


@pytest.fixture(scope="module")
def mixtures(recordings) -> list[tuple[np.ndarray, np.ndarray]]:
    """Real noisy recordings and their clean speech, with 0.05, 0.4 and 2 times the noise."""
    folder = recordings / "vctk_demand_mini"
    pairs = []
    for path in sorted((folder / "noisy").iterdir()):
        noisy, clean = (soundfile.read(folder / kind / path.name)[0][:64000] for kind in ("noisy", "clean"))
        pairs += [(clean + gain * (noisy - clean), clean) for gain in (0.05, 0.4, 2)]
    return pairs


def _both(term, measure, mixtures) -> np.ndarray:
    ours = [
        float(term(torch.tensor(noisy)[None].float(), torch.tensor(clean)[None].float())) for noisy, clean in mixtures
    ]
    return np.array([ours, [measure(noisy, clean) for noisy, clean in mixtures]])


def test_pesq_is_that_of_the_itus_code(mixtures):
    ours, reference = _both(PESQ(1.0).mos, lambda noisy, clean: pesq.pesq(16000, clean, noisy, "wb"), mixtures)
    assert np.ptp(reference) > 2
    assert np.abs(ours - reference).mean() < 0.06
    assert np.corrcoef(ours, reference)[0, 1] > 0.995


@pytest.mark.parametrize("extended", [False, True])
def test_stoi_is_near_that_of_pystoi(mixtures, extended):
    ours, reference = _both(
        lambda noisy, clean: 1 - STOI(1.0, extended).distances(noisy, clean),
        lambda noisy, clean: stoi(clean, noisy, 16000, extended=extended),
        mixtures,
    )
    assert np.ptp(reference) > 0.2
    assert np.abs(ours - reference).mean() < 0.01
    assert np.corrcoef(ours, reference)[0, 1] > 0.995


@pytest.mark.parametrize("term", [PESQ(1.0), STOI(1.0), STOI(1.0, extended=True)])
def test_silence_is_finite_and_items_without_speech_do_not_count(term):
    speech = speech_like(0, 16000)
    noisy = (speech + 0.05 * torch.randn(speech.shape, generator=torch.Generator().manual_seed(0))).requires_grad_()
    value = term(Signals(noisy), Signals(speech))
    assert value > 1e-3
    assert term(Signals(speech), Signals(speech)) < 1e-3 * value

    target = torch.cat([speech, torch.zeros_like(speech)])
    torch.testing.assert_close(term(Signals(torch.cat([noisy, noisy])), Signals(target)), value)

    silent = torch.zeros_like(speech).requires_grad_()
    loss = term(
        Signals(torch.cat([noisy, silent, silent])), Signals(torch.cat([speech, speech, torch.zeros_like(speech)]))
    )
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(noisy.grad).all() and torch.isfinite(silent.grad).all()
    assert noisy.grad.abs().max() > 0


@pytest.mark.parametrize("term", [PESQ(1.0), STOI(1.0)])
def test_signals_shorter_than_a_segment_have_a_value(term):
    speech = speech_like(0, 300)
    assert torch.isfinite(term(Signals(0.5 * speech), Signals(speech)))


def test_another_rate_is_refused():
    with pytest.raises(UserError, match="sample_rate=48000 of the loss term STOI"):
        STOI(1.0, sample_rate=48000)
