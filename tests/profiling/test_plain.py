"""Our models give what their plain forms give: outputs, gradients and statistics, with either kernels."""

import copy
import os
import re
from pathlib import Path

import pytest
import torch
from fixtures.signals import speech_like
from torch import nn

from gtcrn import kernels
from gtcrn.data import audio
from gtcrn.losses import SISDR, CompressedComplex, Loss, Signals
from gtcrn.models import dtln, gtcrn, light_v3, micro
from gtcrn.profiling import plain

MODELS = {
    "GTCRN": gtcrn.build,
    "GTCRN, small and offline": lambda: gtcrn.build(channels=8, dpgrnn_count=1, hidden_size=12, causal=False),
    "Light v3": light_v3.build,
    "Light v3, offline, one DPGRNN": lambda: light_v3.build(use_two_dpgrnn=False, causal=False),
    "Light v3, wide, one direction": lambda: light_v3.build(width_mult=1.5, rnn_bidirectional=False),
    "Micro": micro.build,
    "Micro, offline": lambda: micro.build(channels=8, stacks=1, blocks=2, kernel=5, causal=False),
    "Micro, repeated bands": lambda: micro.build(decoder_groups=None, transposed=False),
}
LOSS = Loss({"complex": CompressedComplex(30, 0.3, 512, 256), "sisdr": SISDR(0.1)})
BEFORE_NORM = re.compile(
    r"conv\d?(\.1)?\.bias"
)  # biases whose effect a BatchNorm takes away: their gradients are noise
PRECISION = 2  # times the error of the plain form in single precision that ours may have


@pytest.fixture(scope="module")
def waves():
    """Return noisy and clean waves (2, N): of real speech where GTCRN_DATA names it, else noises with its pauses."""
    folder = os.environ.get("GTCRN_DATA")
    if not folder:
        clean = speech_like(0)
        return clean + 0.3 * speech_like(1), clean
    corpus = Path(folder, "vctk_demand_mini")
    names = sorted(path.name for path in (corpus / "clean").iterdir())[:2]
    batches = [[audio.load(corpus / role / name, 16000)[16000:24000] for name in names] for role in ("noisy", "clean")]
    return [torch.stack([torch.from_numpy(wave) for wave in batch]) for batch in batches]


def made(name):
    """Return a model in double precision with normalisations that do something."""
    torch.manual_seed(0)
    model = MODELS[name]().double()
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for tensor in (layer.weight, layer.running_var):
                nn.init.uniform_(tensor, 0.5, 1.5)
            for tensor in (layer.bias, layer.running_mean):
                nn.init.uniform_(tensor, -0.3, 0.3)
    return model


def outcome(model, waves, choice="torch"):
    """Return what a model gives for whole utterances, then in a step of training, and its statistics afterwards."""
    model = copy.deepcopy(model)
    noisy, clean = (wave.to(next(model.parameters()).dtype) for wave in waves)
    with kernels.use(choice):
        with torch.no_grad():
            enhanced = model.eval()(noisy)[0]
        estimate = model.train().estimate(noisy)
        LOSS(Signals(*estimate), Signals(clean, model.spectra(clean)))[0].backward()
    gradients = {
        name: weight.grad
        for name, weight in model.core.named_parameters()
        if weight.requires_grad and not BEFORE_NORM.search(name)
    }
    outputs = {"enhanced": enhanced, "wave": estimate[0].detach(), "spectrum": estimate[1].detach()}
    return outputs, gradients, dict(model.core.named_buffers())


@pytest.fixture(scope="module", params=MODELS)
def compared(request, waves):
    """Return a model, its plain form, and what that gives in double precision."""
    model = made(request.param)
    form = plain.of(model)
    return model, form, outcome(form, waves)


def error(ours, exact):
    """Return the norm of relative errors, in which small tensors count as much as large ones."""
    floats = {name: wanted for name, wanted in exact.items() if wanted.is_floating_point()}
    errors = [(ours[name].double() - wanted).norm() / wanted.norm() for name, wanted in floats.items()]
    return float(torch.stack(errors).norm())


@pytest.mark.parametrize("choice", ["torch", "numba"])
def test_ours_equals_the_plain_form(compared, waves, choice):
    model, _, exact = compared
    for ours, wanted in zip(outcome(model, waves, choice), exact, strict=True):
        assert ours.keys() == wanted.keys() and len(wanted) > 2
        torch.testing.assert_close(ours, wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("choice", ["torch", "numba"])
def test_ours_is_as_precise_in_single_precision(compared, waves, choice):
    model, form, exact = compared
    ours, theirs = outcome(copy.deepcopy(model).float(), waves, choice), outcome(copy.deepcopy(form).float(), waves)
    for mine, other, wanted in zip(ours, theirs, exact):
        assert error(mine, wanted) <= PRECISION * error(other, wanted)


def test_layers_are_pytorchs_own(compared):
    model, form, _ = compared
    form.load_state_dict(model.state_dict())
    assert form.state_dict().keys() == model.state_dict().keys()
    homes = {type(layer).__module__ for layer in form.core.modules() if not list(layer.children())}
    assert all(re.match(r"torch\.nn\.|gtcrn\.dsp\.erb|gtcrn\.profiling\.plain", home) for home in homes)
    assert not any(isinstance(layer, kernels.GRU) for layer in form.modules())


def test_the_model_stays_as_it_is():
    model = made("GTCRN").eval()
    form = plain.of(model)
    assert not form.training and next(form.parameters()).dtype == torch.float64
    before = copy.deepcopy(model.state_dict())
    for parameter in form.parameters():
        nn.init.zeros_(parameter)
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


def test_other_systems_have_none():
    assert plain.of(dtln.build()) is None
