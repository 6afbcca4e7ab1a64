"""Every loss of conf/loss: published values, hostile inputs, weights."""

from functools import cache

import numpy as np
import pytest
import torch
from fixtures.commands import CONF, compose
from fixtures.signals import WINDOW, spectrum, speech_like
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from gtcrn.errors import UserError
from gtcrn.losses import SISDR, CompressedComplex, CompressedMagnitude, Loss, MultiResolutionSTFT, Signals

NAMES = sorted(path.stem for path in (CONF / "loss").glob("*.yaml"))


@cache
def loss_config(name: str) -> DictConfig:
    return compose(f"loss={name}").loss


def load(name: str) -> Loss:
    return instantiate(loss_config(name), _convert_="all")


def waveform(spec: torch.Tensor) -> torch.Tensor:
    complex_spec = torch.complex(spec[:, 0], spec[:, 1]).transpose(1, 2)
    return torch.istft(complex_spec, 512, 256, window=WINDOW.to(spec.dtype))


def test_these_losses_ship():
    assert set(NAMES) - {"custom"} == {
        "fastenhancer",
        "hybrid",
        "hybrid_perceptual",
        "mag",
        "multires_stft",
        "output_snr",
        "ri_mag",
        "sisdr",
        "sisdr_mag",
        "snr",
        "timbre",
    }


@pytest.mark.parametrize(
    "golden, hybrid, ri_mag",
    [
        ("gtcrn_dns3", 324.12829225, 4030.21910617),
        ("light_v3_078", 221.76088835, 3437.04701991),
        ("micro_dns3", 177.07775654, 3389.06585249),
    ],
)
def test_published_losses(references, golden, hybrid, ri_mag):
    tensors = np.load(references / "golden" / golden / "spec_1s.npz")
    specs = [torch.from_numpy(tensors[key]).double().permute(0, 3, 2, 1) for key in ("out", "inp")]
    estimate, target = (Signals(waveform(spec), spec) for spec in specs)
    assert load("hybrid")(estimate, target)[0].item() == pytest.approx(hybrid, rel=1e-6)
    assert load("ri_mag")(estimate, target)[0].item() == pytest.approx(ri_mag, rel=1e-6)


HOSTILE = {
    "both silent": lambda a, b: (0 * a, 0 * b),
    "silent target": lambda a, b: (a, 0 * b),
    "silent estimate": lambda a, b: (0 * a, b),
    "one silent target in the batch": lambda a, b: (a, b * torch.tensor([[0.0], [1.0]])),
    "clipped": lambda a, b: ((100 * a).clamp(-1, 1), (100 * b).clamp(-1, 1)),
    "perfect": lambda a, b: (b.clone(), b),
    "inverted": lambda a, b: (-b, b),
    "almost silent": lambda a, b: (1e-7 * a, 1e-7 * b),
    "shorter than a window": lambda a, b: (a[:, :100], b[:, :100]),
    "constant": lambda a, b: (torch.ones_like(a), torch.ones_like(b)),
}


@pytest.mark.parametrize("with_spec", [True, False], ids=["spectral", "waveform"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("hostile", HOSTILE)
@pytest.mark.parametrize("name", NAMES)
def test_loss_and_gradient_are_finite(name, hostile, precision, with_spec):
    """They are so under autocast and with inputs of low precision, as a model under autocast gives them."""
    dtype = getattr(torch, precision)
    estimate_wave, target_wave = HOSTILE[hostile](speech_like(0), speech_like(1))
    estimate_spec, target_spec = (
        spectrum(wave).to(dtype) if with_spec else None for wave in (estimate_wave, target_wave)
    )
    leaves = [x.to(dtype).requires_grad_() for x in (estimate_wave, estimate_spec) if x is not None]
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision != "float32"):
        estimate = Signals(*leaves, analysis=spectrum if with_spec else None)
        total, parts = load(name)(estimate, Signals(target_wave, target_spec))
    assert total.dtype == torch.float32 and total.isfinite() and total.dim() == 0
    assert all(part.isfinite() and not part.requires_grad for part in parts.values())
    gradients = torch.autograd.grad(total, leaves, allow_unused=True)
    assert any(gradient is not None for gradient in gradients)
    assert all(gradient.isfinite().all() for gradient in gradients if gradient is not None)


@pytest.mark.parametrize("name", NAMES)
def test_less_noise_is_less_loss(name):
    loss, target, noise = load(name), speech_like(0), speech_like(1)
    totals = []
    for level in (1.0, 0.3, 0.1, 0.01):
        level = torch.tensor(level, requires_grad=True)
        total, _ = loss(Signals(target + level * noise), Signals(target))
        total.backward()
        assert level.grad > 0
        totals.append(total.item())
    assert totals == sorted(totals, reverse=True)


def test_parts_are_unweighted_and_weights_can_be_swept():
    config = OmegaConf.create(OmegaConf.to_container(loss_config("sisdr_mag")))
    override = OmegaConf.from_dotlist(["loss.terms.magnitude.weight=50"])
    config = OmegaConf.merge({"loss": config}, override).loss
    loss = instantiate(config)
    assert loss.terms["magnitude"].weight == 50
    total, parts = loss(Signals(speech_like(0).double()), Signals(speech_like(1).double()))
    assert list(parts) == ["sisdr", "magnitude"]
    expected = config.terms.sisdr.weight * parts["sisdr"] + 50 * parts["magnitude"]
    torch.testing.assert_close(total, expected)


@pytest.mark.parametrize(
    "build, culprit",
    [
        (lambda: Loss({}), "loss.terms"),
        (lambda: MultiResolutionSTFT(1, [[256, 64, 256]], hf_cutoff=3000), "sample_rate=${model.sample_rate}"),
        (lambda: MultiResolutionSTFT(1, [[256, 64, 256]], 1.5, 8000, 16000), "hf_cutoff=8000"),
        (lambda: MultiResolutionSTFT(1, [[256, 64, 256]], -1, 3000, 16000), "hf_weight=-1"),
        (lambda: Loss({"sisdr": SISDR(weight=-1)}), "loss.terms.sisdr.weight=-1"),
        (lambda: Loss({"sisdr": SISDR(weight=float("nan"))}), "loss.terms.sisdr.weight=nan"),
        (lambda: CompressedMagnitude(weight=1, compression=0), "compression=0"),
        (lambda: CompressedComplex(weight=1, compression=1, n_fft=256, hop_length=512), "hop_length=512"),
        (lambda: MultiResolutionSTFT(weight=1, resolutions=[]), "resolutions"),
        (lambda: MultiResolutionSTFT(weight=1, resolutions=[[256, 50, 512]]), "[256, 50, 512]"),
        (lambda: MultiResolutionSTFT(weight=1, resolutions=[[256, 50]]), "[256, 50]"),
    ],
)
def test_illegal_values_are_named(build, culprit):
    with pytest.raises(UserError) as error:
        build()
    assert culprit in str(error.value)
