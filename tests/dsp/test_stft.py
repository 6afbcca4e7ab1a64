"""The STFT reconstructs perfectly, hop by hop or at once, and is torch's own transform where that applies.

In double precision, but for the windows, which are kept in float32."""

import pytest
import torch

from gtcrn.dsp.erb import erb_filterbank
from gtcrn.dsp.stft import STFT
from gtcrn.errors import UserError


def noise(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize(("n_fft", "hop"), [(512, 256), (512, 128), (960, 480), (48, 16), (512, 160)])
@pytest.mark.parametrize("window", ["hann", "hann_sqrt"])
def test_perfect_reconstruction_hop_by_hop(n_fft, hop, window):
    stft = STFT(n_fft, hop, window).double()
    wave = noise(2, 20 * hop)
    past, overlap, outputs = stft.initial_state(2), stft.initial_state(2), []
    for chunk in wave.split(hop, dim=1):
        spec, past = stft.analysis(chunk, past)
        assert spec.shape == (2, 2, 1, n_fft // 2 + 1)
        output, overlap = stft.synthesis(spec, overlap)
        outputs.append(output)
    streamed = torch.cat(outputs, dim=1)
    torch.testing.assert_close(streamed[:, stft.delay :], wave[:, : -stft.delay], atol=1e-6, rtol=0)  # the windows'
    at_once, _ = stft.synthesis(stft.analysis(wave, stft.initial_state(2))[0], stft.initial_state(2))
    torch.testing.assert_close(at_once, streamed)


def test_equals_torch():
    stft = STFT(512, 256).double()
    wave = noise(1, 2560)
    spec, _ = stft.analysis(torch.nn.functional.pad(wave, (0, 256)), stft.initial_state(1))
    window = torch.hann_window(512, dtype=torch.float64).sqrt()
    theirs = torch.stft(wave, 512, 256, window=window, pad_mode="constant", return_complex=True)
    ours = torch.complex(spec[:, 0], spec[:, 1]).transpose(1, 2)
    torch.testing.assert_close(ours, theirs, atol=1e-7 * theirs.abs().max().item(), rtol=0)


@pytest.mark.parametrize(
    ("n_fft", "hop", "key"), [(511, 256, "n_fft=511"), (512, 512, "hop_length"), (512, 300, "hop")]
)
def test_impossible_sizes_are_named(n_fft, hop, key):
    with pytest.raises(UserError, match=key):
        STFT(n_fft, hop)


def test_erb_bands_share_every_bin():
    filters = erb_filterbank(512, 16000, 65, 64)
    assert filters.shape == (64, 192) and (filters >= 0).all()
    torch.testing.assert_close(filters.sum(dim=0), torch.ones(192))
    peaks = filters.argmax(dim=1)
    assert (peaks.diff() > 0).all() and peaks[0] == 0 and peaks[-1] == 191
