"""Timbre restoration: published sizes, every bottleneck's stream, gate, limiter, plain weights, training, knobs."""

import copy

import pytest
import soundfile
import torch
from torch import nn
from torch.nn.utils import parametrize

from gtcrn.errors import UserError
from gtcrn.losses import Loss, MultiResolutionSTFT, Signals
from gtcrn.models import timbre
from gtcrn.models.reparametrisation import remove_reparametrisations
from gtcrn.streaming import flatten


def small(**knobs):
    """A full-band model of a few thousand weights, in double precision, whose correction is as loud as its input."""
    torch.manual_seed(0)
    enhancer = timbre.build(**{"channels": (6, 8, 12), "strides": (4, 5), "kernel": 7} | knobs)
    for name, parameter in enhancer.named_parameters():
        if name.endswith("original0"):  # gains, which weight norm begins as the norms of small weights
            parameter.data.mul_(2)
    nn.init.ones_(enhancer.core.residual_scale)
    nn.init.normal_(enhancer.core.output.bias)
    return enhancer.double().eval().requires_grad_(False)


@pytest.fixture(scope="module")
def speech(recordings) -> torch.Tensor:
    """Two seconds of real speech at 48 kHz, (1, N) in double precision."""
    path = min((recordings / "fullband_mini" / "speech").glob("*.wav"))
    wave, rate = soundfile.read(path)
    assert rate == 48000
    return torch.from_numpy(wave[: 200 * 480])[None]


@pytest.mark.parametrize(("bottleneck", "parameters"), [("gru", 8_929_987), ("lstm", 9_980_611), ("none", 5_515_459)])
def test_parameters_are_the_published_ones(bottleneck, parameters):
    assert sum(p.numel() for p in timbre.build(bottleneck=bottleneck).parameters()) == parameters


@pytest.mark.parametrize("bottleneck", ["gru", "lstm", "none"])
@pytest.mark.parametrize("hops", [1, 7])
def test_every_bottleneck_streams(speech, bottleneck, hops):
    enhancer = small(bottleneck=bottleneck)
    whole, last = enhancer(speech)
    state, outputs = enhancer.initial_state(1), []
    for chunk in speech.split(hops * enhancer.hop_length, dim=1):
        output, state = enhancer(chunk, state)
        outputs.append(output)
    torch.testing.assert_close(torch.cat(outputs, dim=1), whole)
    torch.testing.assert_close(flatten(state), flatten(last))
    assert (whole - speech).abs().max() > 0.1


def test_each_part_of_the_state_matters(speech):
    """What the published stream forgot: every convolution's past."""
    enhancer = small(gate=None)
    hop = enhancer.hop_length
    _, state = enhancer(speech[:, : 100 * hop])
    chunk = speech[:, 100 * hop : 101 * hop]
    expected = enhancer(chunk, state)[0]
    flat = flatten(state)
    # a convolution and a transposed one per stride's direction, three per merge and residual block, the two ends
    assert len(flat) == 2 + 2 * 3 + 2 * 4 + 1
    for tensor in flat.values():
        kept = tensor.clone()
        tensor.zero_()
        assert (enhancer(chunk, state)[0] - expected).abs().max() > 1e-4
        tensor.copy_(kept)
    assert torch.equal(enhancer(chunk, state)[0], expected)


def test_silence_stays_silent():
    silence = torch.zeros(1, 4800).double()
    assert not small()(silence)[0].any()
    assert small(gate=None)(silence)[0].abs().max() > 0.1


def test_gate_scales_the_correction(speech):
    gated, open_ = (small(gate=gate, limiter=0)(0.1 * speech)[0] - 0.1 * speech for gate in (30.0, None))
    torch.testing.assert_close(gated, open_ * torch.tanh(3 * speech.abs()))


def test_output_is_bounded(speech):
    """By 1 / limiter while training, where a clamp would have no gradient, and by full scale afterwards."""
    loud = 1000 * speech
    enhancer = small().train()
    assert 9 < enhancer(loud)[0].abs().max() <= 10
    assert enhancer.eval()(loud)[0].abs().max() == 1
    assert small(limiter=0).train()(loud)[0].abs().max() > 100


def test_any_length_is_the_beginning_of_a_longer_one(speech):
    enhancer = small()
    whole = enhancer(speech)[0]
    for length in (1, 479, 480, 481, 12345):
        shorter = enhancer(speech[:, :length])[0]
        assert shorter.shape == (1, length)
        torch.testing.assert_close(shorter, whole[:, :length])


def test_samples_answer_no_later_ones(speech):
    """Gradients: within a stride too."""
    enhancer = small()
    wave = speech[:, 48000:48960].clone().requires_grad_()
    for sample in (500, 507, 519):
        (influence,) = torch.autograd.grad(enhancer(wave)[0][0, sample], wave)
        assert influence[0, sample] != 0 and not influence[0, sample + 1 :].any()


# --- weight norm


@pytest.mark.parametrize("frozen", [True, False])
def test_plain_weights_give_the_same(speech, frozen):
    enhancer = small()
    enhancer.requires_grad_(not frozen)
    normed, keys = copy.deepcopy(enhancer), {name for name, _ in small(weight_norm=False).named_parameters()}
    assert remove_reparametrisations(enhancer) is enhancer
    assert not any(parametrize.is_parametrized(layer) for layer in enhancer.modules())
    assert {name for name, _ in enhancer.named_parameters()} == set(enhancer.state_dict()) == keys
    assert all(p.requires_grad != frozen and p.is_leaf for p in enhancer.parameters())
    with torch.no_grad():
        torch.testing.assert_close(enhancer(speech)[0], normed(speech)[0])
    small(weight_norm=False).load_state_dict(enhancer.state_dict())


def test_every_convolution_is_normed():
    convolutions = [m for m in small().modules() if isinstance(m, (nn.Conv1d, nn.ConvTranspose1d))]
    assert {type(m).__mro__[1].__name__ for m in convolutions} == {"CausalConv1d", "CausalConvTranspose1d"}
    assert all(parametrize.is_parametrized(m, "weight") for m in convolutions)


def test_copies_and_files_keep_weight_norm(speech, tmp_path):
    enhancer = small()
    torch.save(copy.deepcopy(enhancer).state_dict(), tmp_path / "weights.pt")
    again = small()
    with torch.no_grad():
        for parameter in again.parameters():
            parameter.zero_()
    again.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    assert torch.equal(again(speech)[0], enhancer(speech)[0])


# --- training, knobs


def test_learns():
    enhancer = small(bottleneck_layers=1).float().train().requires_grad_(True)
    noisy = 0.1 * torch.randn(2, 2400)
    clean = noisy - 0.5 * noisy.roll(1, dims=1)
    loss = Loss({"stft": MultiResolutionSTFT(weight=1, resolutions=[(512, 128, 512)])})
    optimizer = torch.optim.Adam(enhancer.parameters(), 1e-2)
    totals = []
    for _ in range(20):
        total, _ = loss(Signals(*enhancer.estimate(noisy)), Signals(clean, enhancer.spectra(clean)))
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(total.item())
    assert totals[-1] < 0.5 * totals[0]
    assert all(p.grad.isfinite().all() and p.grad.any() for p in enhancer.parameters())


@pytest.mark.parametrize("bottleneck", ["gru", "lstm"])
def test_half_precision_under_autocast(speech, bottleneck):
    enhancer, speech = small(bottleneck=bottleneck).float(), speech.float()
    with torch.autocast("cpu", torch.bfloat16):
        enhanced, state = enhancer(speech)
        enhancer(speech[:, :480], state)
    assert enhanced.dtype == torch.float32
    assert (enhanced - enhancer(speech)[0]).abs().max() < 0.05


def test_masks_need_a_spectrum():
    with pytest.raises(UserError, match="set training/masks=none"):
        small().estimate(torch.zeros(1, 480), masks=torch.zeros_like)


@pytest.mark.parametrize(
    ("knob", "named"),
    [
        ({"channels": [8, 0, 8, 8]}, r"model.channels=\[8, 0, 8, 8\]"),
        ({"channels": [8, 16]}, r"model.channels=\[8, 16\]: must be one number more than model.strides"),
        ({"channels": []}, r"model.channels=\[\]"),
        ({"channels": 64}, "model.channels=64: must be a list"),
        ({"strides": [2, 2, 2.5]}, r"model.strides=\[2, 2, 2.5\]"),
        ({"kernel": 1}, "model.kernel=1: must be at least the largest stride, 2"),
        ({"bottleneck": "rnn"}, "model.bottleneck=rnn: must be one of gru, lstm, none"),
        ({"bottleneck_layers": 0}, "model.bottleneck_layers=0"),
        ({"gate": 0.0}, "model.gate=0.0"),
        ({"limiter": -0.1}, "model.limiter=-0.1"),
        ({"limiter": float("nan")}, "model.limiter=nan"),
        ({"hop_length": 484}, "model.hop_length=484: must be a multiple of the strides' product, 8"),
        ({"hop_length": 0}, "model.hop_length=0"),
        ({"causal": False}, "model.causal=False: .*streaming=causal"),
        ({"padding": "reflect"}, "padding=reflect: .*padding=zeros"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else None,
)
def test_out_of_range_knob_is_named(knob, named):
    with pytest.raises(UserError, match=named):
        timbre.build(**knob)
