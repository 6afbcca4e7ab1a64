"""SI-SDR, SNR and L1 equal values computed by hand, with NumPy and by torchmetrics."""

import numpy as np
import pytest
import torch
from fixtures.signals import speech_like
from torchmetrics.functional.audio import scale_invariant_signal_distortion_ratio

from gtcrn.losses import L1, SISDR, SNR, Signals


def test_sisdr_is_in_decibels_and_ignores_scale_and_optionally_offset():
    target = speech_like(0).double()
    target = target - target.mean(dim=1, keepdim=True)
    noise = speech_like(1).double()
    noise = noise - noise.mean(dim=1, keepdim=True)
    noise -= (noise * target).sum(1, keepdim=True) / target.square().sum(1, keepdim=True) * target
    noise *= target.norm(dim=1, keepdim=True) / noise.norm(dim=1, keepdim=True) / 10  # 20 dB below
    plain, zero_mean = SISDR(weight=1), SISDR(weight=1, zero_mean=True)
    assert plain(Signals(target + noise), Signals(target)).item() == pytest.approx(-20, abs=1e-4)
    assert plain(Signals(7 * (target + noise)), Signals(target)).item() == pytest.approx(-20, abs=1e-4)
    assert zero_mean(Signals(target + noise + 1), Signals(target)).item() == pytest.approx(-20, abs=1e-4)
    assert plain(Signals(target + noise + 1), Signals(target)).item() > 0


@pytest.mark.parametrize("zero_mean", [False, True])
def test_sisdr_is_that_of_torchmetrics(zero_mean):
    estimate, target = 10 * speech_like(1).double() + 0.1, 10 * speech_like(0).double() - 0.1  # far above the floor
    expected = -scale_invariant_signal_distortion_ratio(estimate, target, zero_mean).mean()
    torch.testing.assert_close(SISDR(1, zero_mean)(Signals(estimate), Signals(target)), expected, atol=1e-4, rtol=0)


def test_snr_is_the_published_one_where_there_is_signal():
    estimate, target = (10 * speech_like(seed).double() for seed in (1, 0))  # far above the floor
    noise = (target - estimate).square().mean(dim=1) + 1e-7
    published = -10 * torch.log10(target.square().mean(dim=1) / noise)
    snr = SNR(weight=1)
    torch.testing.assert_close(snr(Signals(estimate), Signals(target)), published.mean(), atol=1e-3, rtol=0)
    assert snr(Signals(0.5 * target), Signals(target)).item() == pytest.approx(-20 * np.log10(2), abs=1e-3)


def test_snr_asks_for_silence_where_the_target_is_silent():
    """The whole published loss was infinite as soon as one target of the batch was silent."""
    level = torch.tensor(1.0, requires_grad=True)
    estimate, silence = level * speech_like(0), torch.zeros(2, 8000)
    loss = SNR(weight=1)(Signals(estimate), Signals(silence))
    loss.backward()
    assert 0 < loss < 70 and 0 < level.grad < 20 / np.log(10) + 1e-3  # 20 / ln 10 dB per unit of relative change
    assert SNR(weight=1)(Signals(silence), Signals(silence)) == 0


def test_l1_is_the_mean_absolute_difference():
    estimate, target = speech_like(0).double(), speech_like(1).double()
    expected = np.abs(estimate.numpy() - target.numpy()).mean()
    assert L1(weight=3)(Signals(estimate), Signals(target)).item() == pytest.approx(expected, rel=1e-6)
