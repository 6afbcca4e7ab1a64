import numpy as np
import onnx
import pytest
import torch
from torch import nn

from gtcrn.data import audio
from gtcrn.errors import UserError
from gtcrn.export.graph import Graph
from gtcrn.export.optimize import optimized
from gtcrn.export.optimize.fourier import RealDFT
from gtcrn.export.optimize.rules import replacement
from gtcrn.export.writers.onnx import write
from gtcrn.models import dtln, fastenhancer, gtcrn, light_v3, micro, timbre, ulunas
from gtcrn.models.enhancer import FrameEnhancer, SpectralEnhancer, StreamingModel
from gtcrn.models.pretrained import load

RECURRENCES = "operator", "unrolled"
HOPS = 24
SMALL = dict(erb_low_bins=9, erb_bands=8, n_fft=64, hop_length=32)
SYSTEMS = {
    "gtcrn": lambda: gtcrn.build(**SMALL),
    "gtcrn_other_sizes": lambda: gtcrn.build(channels=10, dpgrnn_count=1, hidden_size=12, **SMALL | {"hop_length": 16}),
    "gtcrn_tiny": lambda: gtcrn.build(channels=4, dpgrnn_count=1, hidden_size=4, **SMALL),
    "light_v3": lambda: light_v3.build(**SMALL),
    "light_v3_one_way": lambda: light_v3.build(2, r=5, use_two_dpgrnn=False, rnn_bidirectional=False, **SMALL),
    "micro": lambda: micro.build(**SMALL),
    "micro_grouped": lambda: micro.build(stacks=1, kernel=2, encoder_groups=4, decoder_groups=2, **SMALL),
    "micro_int8": lambda: micro.build(decoder_groups=None, transposed=False, activation="relu", **SMALL),
    "fastenhancer": lambda: fastenhancer.build(bands=5, n_fft=64, hop_length=24),
    "fastenhancer_flat": lambda: fastenhancer.build(
        layers=1, heads=2, bands=8, n_fft=64, hop_length=32, batch_norm=False
    ),
    "ulunas": lambda: ulunas.build(**SMALL),
    "ulunas_residual": lambda: ulunas.build(
        ["mb", "mb", "conv"], [4, 4, 8], [(3, 3), (2, 3), (2, 5)], [2, 1, 2], [1, 2, 4], dpgrnn_count=1, **SMALL
    ),
    "dtln": lambda: dtln.build(lstm_size=32, n_fft=128, hop_length=32),
    "dtln_norm": lambda: dtln.build(lstm_size=32, layers=3, norm_stft=True),
    "dtln_32k": lambda: dtln.build(lstm_size=32, layers=1, n_fft=1024, hop_length=256, sample_rate=32000),
    "timbre_light": lambda: timbre.build(channels=[8, 16, 24], strides=[10, 8], kernel=16),
    "timbre_lstm": lambda: timbre.build(channels=[8, 16], strides=[4], bottleneck="lstm", weight_norm=False),
    "timbre_none": lambda: timbre.build(channels=[8, 16], strides=[4], bottleneck="none"),
}


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def system(name):
    """With weights, statistics and slopes as training might leave them."""
    enhancer = SYSTEMS[name]().eval()
    with torch.no_grad():
        for layer in enhancer.modules():
            if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)):
                layer.running_mean.normal_(0, 0.3)
                layer.running_var.uniform_(0.5, 2)
                layer.weight.uniform_(-1.5, 1.5)
                layer.bias.normal_(0, 0.3)
            elif isinstance(layer, nn.PReLU):
                layer.weight.uniform_(-0.2, 0.5)
            elif isinstance(layer, ulunas.AffinePReLU):
                layer.affine_weight.normal_(0, 0.8)
                layer.affine_bias.normal_(0, 0.3)
    return enhancer


def hops(enhancer, count=HOPS):
    """Digital silence, then noise that gets louder."""
    levels = torch.linspace(0, 0.3, count).clamp(min=0.05) * (torch.arange(count) > 3)
    return torch.randn(count, 1, enhancer.hop_length) * levels[:, None, None]


@torch.inference_mode()
def streamed(enhancer, waves):
    state, heard = enhancer.initial_state(1), []
    for wave in waves:
        enhanced, state = enhancer(wave, state)
        heard.append(enhanced)
    return torch.cat(heard, dim=1)


@pytest.mark.parametrize("name", SYSTEMS)
def test_lean_copies_stream_as_the_original(name):
    original = system(name)
    waves = hops(original)
    expected = streamed(original, waves)
    assert expected.abs().max() > 1e-3
    before = {key: value.clone() for key, value in original.state_dict().items()}
    for recurrence in RECURRENCES:
        copy = optimized(original, recurrence)
        torch.testing.assert_close(streamed(copy, waves), expected, rtol=0, atol=1e-5)
        assert (copy.hop_length, copy.latency) == (original.hop_length, original.latency)
        if isinstance(original, FrameEnhancer):
            assert copy.framing.window_name == original.framing.window_name
    assert (streamed(copy, waves[-8:]) - expected[:, -8 * copy.hop_length :]).abs().max() > 1e-4, "its state is idle"
    after = original.state_dict()
    assert after.keys() == before.keys() and all(torch.equal(after[key], before[key]) for key in before)


@pytest.mark.parametrize(
    "file",
    [
        "gtcrn/dns3_epoch96.tar",
        "micro/best_model_dns3.tar",
        "dtln/DTLN_norm_40h.h5",
    ],
)
def test_published_weights_on_speech(references, recordings, file):
    original = load(references / file)
    speech = audio.load(recordings / "vctk_demand_mini/noisy/p287_001.wav", 16000)
    waves = torch.from_numpy(speech)[10000 : 10000 + HOPS * original.hop_length].view(HOPS, 1, -1)
    expected = streamed(original, waves)
    for recurrence in RECURRENCES:
        torch.testing.assert_close(streamed(optimized(original, recurrence), waves), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["gtcrn", "light_v3", "micro_grouped", "fastenhancer", "timbre_light"])
def test_nothing_is_left_to_fold(name):
    kinds = {type(layer) for layer in optimized(system(name)).modules()}
    assert not kinds & {nn.BatchNorm1d, nn.BatchNorm2d, nn.PReLU}
    assert not any("Parametrized" in kind.__name__ for kind in kinds)


def test_states_keep_their_names():
    original = system("light_v3")
    assert Graph(optimized(original), "wave").states.keys() == Graph(original, "wave").states.keys()


@pytest.mark.parametrize(
    "settings",
    [
        dict(kernel_size=(1, 5), stride=(1, 2), padding=(0, 2)),
        dict(kernel_size=(1, 3), stride=(1, 2), padding=(0, 1), groups=2, bias=False),
        dict(kernel_size=(1, 4), stride=(1, 3), padding=(0, 1)),
        dict(kernel_size=(1, 3), padding=(0, 1), groups=6),
        dict(kernel_size=1, groups=2),
        dict(kernel_size=(3, 3), stride=(1, 2)),  # without a rule
        dict(kernel_size=(1, 5), stride=(1, 2), output_padding=(0, 1)),
    ],
)
def test_transposed_convolutions(settings):
    conv = nn.ConvTranspose2d(6, 4 if settings.get("groups") != 6 else 6, **settings).double()
    x = torch.randn(1, 6, 1, 9, dtype=torch.float64)
    expected = conv(x)
    for recurrence in RECURRENCES:
        torch.testing.assert_close(replacement(conv, recurrence)(x), expected)


@pytest.mark.parametrize("n", [4, 6, 64, 254, 320, 512, 1024])
def test_dft_is_numpys(n):
    """In double precision, but for the matrices, which are kept in float32: within 1e-6 of the peak."""
    wave = np.random.default_rng(0).standard_normal(n)
    spec, dft = np.fft.rfft(wave), RealDFT(n).double()
    wave, parts = torch.from_numpy(wave)[None], torch.from_numpy(np.stack([spec.real, spec.imag]))[None, :, None]
    torch.testing.assert_close(dft(wave), parts, rtol=0, atol=1e-6 * np.abs(spec).max())
    torch.testing.assert_close(dft.inverse(parts), wave, rtol=0, atol=1e-6 * wave.abs().max().item())


class Foreign(StreamingModel):
    """A model that no rule knows, with a BatchNorm that no convolution precedes."""

    def __init__(self):
        super().__init__()
        self.bn, self.scale = nn.BatchNorm2d(2), nn.Parameter(torch.tensor(0.7))

    def forward(self, spec, state=None):
        return self.bn(spec) * self.scale, self.start(len(spec), state)


def test_model_without_rules():
    original = SpectralEnhancer(Foreign(), gtcrn.build(**SMALL).framing, 16000).eval()
    original.core.bn.running_mean.normal_()
    waves = hops(original)
    torch.testing.assert_close(streamed(optimized(original), waves), streamed(original, waves), rtol=0, atol=1e-5)


def test_looking_ahead_names_the_layer():
    with pytest.raises(UserError, match="depth_conv"):
        optimized(gtcrn.build(causal=False))


@pytest.mark.parametrize("name", ["gtcrn_tiny", "fastenhancer", "dtln"])
def test_onnx_runtime_gives_the_same_from_few_operators(name, tmp_path):
    import onnxruntime

    original = system(name)
    graph = Graph(optimized(original), "wave")
    write(graph, tmp_path / "model.onnx", {})
    operators = [node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node]
    recurrence = {"dtln": "LSTM", "fastenhancer": "Softmax"}.get(name, "GRU")  # whose GRUs take one step
    foreign = {"BatchNormalization", "DFT", "ScatterND", "Loop", "If", "PRelu"}
    assert not foreign & set(operators) and recurrence in operators
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    states, heard, waves = [state.numpy() for state in graph.states.values()], [], hops(original)
    for wave in waves.numpy():
        heard_now, *states = session.run(None, dict(zip(graph.input_names, [wave, *states])))
        heard.append(torch.from_numpy(heard_now))
    torch.testing.assert_close(torch.cat(heard, dim=1), streamed(original, waves), rtol=0, atol=1e-5)
