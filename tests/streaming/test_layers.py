"""Layers with explicit state give chunk by chunk what torch's own layers give for the whole signal.

The tests are in double precision, in which rounding is far smaller than the effect of any mistake."""

import pytest
import torch
import torch.nn.functional as F

from gtcrn.streaming import (
    CausalConv1d,
    CausalConv2d,
    CausalConvTranspose1d,
    CausalConvTranspose2d,
    CausalGRU,
    CausalLSTM,
    TimeGRU,
)


@pytest.fixture(autouse=True)
def double_precision():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def depthwise(kind, **options):
    return kind(4, 4, (3, 3), n_freqs=5, padding_freq=1, dilation=2, groups=4, **options)


LAYERS = {
    "conv1d": (lambda: CausalConv1d(4, 6, 3, groups=2), (2, 4, 12)),
    "conv1d depthwise": (lambda: CausalConv1d(4, 4, 3, dilation=2, groups=4), (2, 4, 12)),
    "conv1d dilated": (lambda: CausalConv1d(4, 6, 3, dilation=4), (2, 4, 12)),
    "transposed1d": (lambda: CausalConvTranspose1d(4, 6, 7, stride=2), (2, 4, 12)),
    "transposed1d without overlap": (lambda: CausalConvTranspose1d(4, 6, 2, stride=3), (2, 4, 12)),
    "conv2d": (lambda: CausalConv2d(4, 6, (3, 3), n_freqs=5, padding_freq=1, dilation=2), (2, 4, 12, 5)),
    "conv2d depthwise": (lambda: depthwise(CausalConv2d), (2, 4, 12, 5)),
    "transposed depthwise": (lambda: depthwise(CausalConvTranspose2d, bias=False), (2, 4, 12, 5)),
    "transposed": (lambda: CausalConvTranspose2d(4, 6, (3, 3), n_freqs=5, padding_freq=1, dilation=5), (2, 4, 12, 5)),
    "gru of frequencies": (lambda: TimeGRU(4, 6, n_freqs=5), (2, 12, 5, 4)),
    "gru": (lambda: CausalGRU(4, 6, 3), (2, 12, 4)),
    "lstm": (lambda: CausalLSTM(4, 6, 3), (2, 12, 4)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_frames_equal_whole(name):
    torch.manual_seed(0)
    build, shape = LAYERS[name]
    layer, x = build(), torch.randn(shape)
    time = 1 if name.startswith(("gru", "lstm")) else 2
    whole, last = layer(x, layer.initial_state(2))
    state, frames = layer.initial_state(2), []
    for frame in x.split(1, dim=time):
        y, state = layer(frame, state)
        frames.append(y)
    torch.testing.assert_close(torch.cat(frames, dim=time), whole)
    torch.testing.assert_close(state, last)


@pytest.mark.parametrize(("kernel", "stride", "dilation"), [(7, 2, 1), (16, 10, 1), (4, 4, 1), (3, 5, 1), (3, 2, 3)])
def test_strided_conv1d_in_chunks_of_the_stride(kernel, stride, dilation):
    torch.manual_seed(0)
    layer, x = CausalConv1d(4, 6, kernel, stride=stride, dilation=dilation), torch.randn(2, 4, 12 * stride)
    padded = F.pad(x, ((kernel - 1) * dilation, 0))
    expected = F.conv1d(padded, layer.weight, layer.bias, stride=stride, dilation=dilation)
    whole, last = layer(x, layer.initial_state(2))
    torch.testing.assert_close(whole, expected)
    state, outputs = layer.initial_state(2), []
    for chunk in x.split([stride, 3 * stride, 2 * stride, stride, 5 * stride], dim=2):
        y, state = layer(chunk, state)
        assert y.shape[2] * stride == chunk.shape[2]
        outputs.append(y)
    torch.testing.assert_close(torch.cat(outputs, dim=2), whole)
    assert torch.equal(state, last)


@pytest.mark.parametrize(("kernel", "stride"), [(7, 2), (8, 2), (16, 10), (4, 4), (3, 5), (3, 1)])
def test_transposed_conv1d_is_cut_on_the_right(kernel, stride):
    layer, x = CausalConvTranspose1d(4, 6, kernel, stride=stride), torch.randn(2, 4, 12)
    y = layer(x, layer.initial_state(2))[0]
    uncut = F.conv_transpose1d(x, layer.weight, layer.bias, stride=stride)
    assert y.shape == (2, 6, 12 * stride)
    shared = min(y.shape[2], uncut.shape[2])  # a kernel below the stride ends before the last samples
    torch.testing.assert_close(y[:, :, :shared], uncut[:, :, :shared])
    torch.testing.assert_close(y[:, :, shared:], layer.bias[:, None].expand_as(y[:, :, shared:]))


def test_causal_conv2d_is_left_padded():
    layer = CausalConv2d(4, 6, (3, 3), n_freqs=5, padding_freq=1, dilation=2)
    x = torch.randn(2, 4, 12, 5)
    expected = F.conv2d(F.pad(x, (1, 1, 4, 0)), layer.weight, layer.bias, dilation=(2, 1))
    torch.testing.assert_close(layer(x, layer.initial_state(2))[0], expected)


@pytest.mark.parametrize("groups", [1, 2])
def test_transposed_is_torchs_own_without_its_end(groups):
    layer = CausalConvTranspose2d(4, 6, (3, 4), n_freqs=5, padding_freq=1, dilation=2, groups=groups)
    x = torch.randn(2, 4, 12, 5)
    uncut = F.conv_transpose2d(x, layer.weight, layer.bias, padding=(0, 1), dilation=(2, 1), groups=groups)
    torch.testing.assert_close(layer(x, layer.initial_state(2))[0], uncut[:, :, :12])


def test_transposed_tap_zero_is_the_newest_frame():
    layer = CausalConvTranspose2d(1, 1, (3, 1), n_freqs=1, dilation=2, bias=False)
    impulse = torch.zeros(1, 1, 8, 1)
    impulse[0, 0, 1] = 1
    y = layer(impulse, layer.initial_state(1))[0][0, 0, :, 0]
    w = layer.weight[0, 0, :, 0]
    torch.testing.assert_close(y, torch.stack([y[0] * 0, w[0], y[0] * 0, w[1], y[0] * 0, w[2], y[0] * 0, y[0] * 0]))


@pytest.mark.parametrize("kind", [CausalConv2d, CausalConvTranspose2d])
def test_looking_ahead_is_centred(kind):
    layer = kind(1, 1, (3, 1), n_freqs=1, dilation=2, bias=False, causal=False)
    assert (layer.lookahead, layer.memory) == (2, 0)
    impulse = torch.zeros(1, 1, 9, 1)
    impulse[0, 0, 4] = 1
    y = layer(impulse, layer.initial_state(1))[0][0, 0, :, 0]
    assert y.shape == (9,) and set(y.nonzero()[:, 0].tolist()) == {2, 4, 6}
