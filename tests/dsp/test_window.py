"""The window that torch and numpy share."""

import numpy as np
import pytest
import torch

from gtcrn.dsp.stft import STFT
from gtcrn.dsp.window import sqrt_hann


@pytest.mark.parametrize("length", [4, 30, 64, 400, 512, 1024, 8192])
def test_square_root_of_torch_periodic_hann_to_the_bit(length):
    window = torch.from_numpy(sqrt_hann(length))
    assert window.dtype == torch.float64
    assert torch.equal(window.float(), torch.hann_window(length, dtype=torch.float64).sqrt().float())
    assert torch.equal(STFT(length, length // 2).window, window.float())


def test_frames_add_up_to_the_same_everywhere():
    squares = sqrt_hann(512) ** 2
    np.testing.assert_allclose(squares[:256] + squares[256:], 1)
