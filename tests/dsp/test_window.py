"""The window that torch and numpy share."""

import numpy as np
import pytest
import torch

from gtcrn.dsp.stft import STFT
from gtcrn.dsp.window import WINDOWS, analysis_window, synthesis_window
from gtcrn.errors import UserError


@pytest.mark.parametrize("length", [4, 30, 64, 400, 512, 1024, 8192])
def test_torchs_periodic_windows(length):
    hann = torch.hann_window(length, dtype=torch.float64)
    theirs = {"hann": hann, "hann_sqrt": hann.sqrt(), "rectangular": torch.ones(length)}
    assert theirs.keys() == WINDOWS.keys()
    for name, expected in theirs.items():
        window = torch.from_numpy(analysis_window(name, length))
        assert window.dtype == torch.float64
        torch.testing.assert_close(window.float(), expected.float(), atol=2e-8, rtol=1e-7)
        rounded = torch.hann_window(length) if name == "hann" else window.float()  # as published models were trained
        assert torch.equal(STFT(length, length // 2, name).window, rounded)
        torch.testing.assert_close(rounded, window.float(), atol=4e-7, rtol=0)


@pytest.mark.parametrize("name", WINDOWS)
@pytest.mark.parametrize("hop", [256, 160, 100])  # whether or not it divides the length
def test_what_is_analysed_and_added_up_is_the_signal(name, hop):
    window = analysis_window(name, 512)
    total = np.zeros(20 * hop + 512)
    for frame in range(20):
        total[frame * hop :][:512] += window * synthesis_window(window, hop)
    np.testing.assert_allclose(total[512 : 19 * hop], 1)


def test_what_does_not_fit_is_named():
    with pytest.raises(UserError, match="window=hamming: must be one of hann_sqrt, hann, rectangular"):
        analysis_window("hamming", 512)
    with pytest.raises(UserError, match="hop_length=257: must be at least 1 and at most half of n_fft=512"):
        synthesis_window(analysis_window("hann", 512), 257)
