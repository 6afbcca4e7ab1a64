"""Every loss of conf/loss: published values, hostile inputs, and the terms' own properties."""

from functools import cache

import numpy as np
import pytest
import torch
from fixtures.commands import CONF, compose
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torchmetrics.functional.audio import scale_invariant_signal_distortion_ratio

from gtcrn.errors import UserError
from gtcrn.losses import L1, SISDR, SNR, CompressedComplex, CompressedMagnitude, Loss, MultiResolutionSTFT, Signals

NAMES = sorted(path.stem for path in (CONF / "loss").glob("*.yaml"))
WINDOW = torch.hann_window(512, dtype=torch.float64).sqrt()


@cache
def loss_config(name: str) -> DictConfig:
    return compose(f"loss={name}").loss


def load(name: str) -> Loss:
    return instantiate(loss_config(name), _convert_="all")


def spectrum(wave: torch.Tensor) -> torch.Tensor:
    spec = torch.stft(
        wave, 512, 256, window=WINDOW.to(wave.dtype), center=True, pad_mode="constant", return_complex=True
    )
    return torch.view_as_real(spec).permute(0, 3, 2, 1)


def waveform(spec: torch.Tensor) -> torch.Tensor:
    complex_spec = torch.complex(spec[:, 0], spec[:, 1]).transpose(1, 2)
    return torch.istft(complex_spec, 512, 256, window=WINDOW.to(spec.dtype))


def speech_like(seed: int, length: int = 8000) -> torch.Tensor:
    """Return two coloured noises with pauses, (2, length)."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(2, length, generator=generator).cumsum(dim=1)
    noise = noise - torch.nn.functional.avg_pool1d(noise[:, None], 101, 1, 50)[:, 0]
    return 0.2 * noise / noise.abs().amax() * (torch.arange(length) % 4000 < 3000)


def test_the_issue_names_these_losses():
    assert set(NAMES) - {"custom"} == {
        "hybrid",
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
        total, parts = load(name)(Signals(*leaves), Signals(target_wave, target_spec))
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


def test_spectral_terms_prefer_the_models_own_spectrum():
    wave, other = speech_like(0).double(), speech_like(1).double()
    term = CompressedMagnitude(weight=1, compression=0.3)
    from_wave = term(Signals(wave), Signals(other))
    from_spec = term(Signals(wave, spectrum(wave)), Signals(other, spectrum(other)))
    torch.testing.assert_close(from_wave, from_spec)
    assert term(Signals(wave, spectrum(other)), Signals(other, spectrum(other))) == 0


def test_complex_term_is_the_squared_distance_of_compressed_spectra():
    a, b = spectrum(speech_like(0).double()), spectrum(speech_like(1).double())
    term = CompressedComplex(weight=1, compression=0.5)

    def compressed(spec):
        number = torch.complex(spec[:, 0], spec[:, 1])
        return torch.polar(number.abs().sqrt(), number.angle())

    expected = (compressed(a) - compressed(b)).abs().square().mean()
    wave = torch.zeros(2, 8000)
    torch.testing.assert_close(term(Signals(wave, a), Signals(wave, b)), expected, rtol=1e-4, atol=0)


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


def test_multires_of_a_scaled_signal():
    """For |S| = g |T| the spectral convergence is |1 - g| and the log distance |ln g|, above the floor."""
    target = torch.randn(1, 16000, generator=torch.Generator().manual_seed(0)).double()
    term = MultiResolutionSTFT(weight=1, resolutions=[[512, 128, 512], [256, 64, 200]])
    value = term(Signals(2 * target), Signals(target)).item()
    assert value == pytest.approx(1 + np.log(2), rel=1e-3)


def test_emphasis_of_high_frequencies_by_numpy():
    """The published factors are a sigmoid around the cutoff's bin, as wide as a quarter of the bins above it."""
    target, estimate = (speech_like(seed).double() for seed in (0, 1))
    options = {"hf_weight": 1.5, "hf_cutoff": 3000, "sample_rate": 16000}
    term = MultiResolutionSTFT(weight=1, resolutions=[[512, 128, 512]], **options)
    value = term(Signals(estimate), Signals(target)).item()

    def magnitudes(wave):
        padded = np.pad(wave.numpy(), ((0, 0), (256, 256)))
        frames = np.lib.stride_tricks.sliding_window_view(padded, 512, axis=1)[:, ::128]
        window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(512) / 512)
        return np.sqrt(np.abs(np.fft.rfft(frames * window)) ** 2 + 1e-7)

    y, s = magnitudes(estimate), magnitudes(target)
    cutoff, bins = 96, np.arange(257)  # 3000 / 16000 · 512
    weight = 1 + 0.5 / (1 + np.exp(-(bins - cutoff) / 40))  # (257 - 96) // 4
    convergence = np.linalg.norm(weight * (s - y)) / np.linalg.norm(weight * s)
    assert value == pytest.approx(convergence + np.abs(np.log(weight * s) - np.log(weight * y)).mean(), rel=1e-6)


def test_emphasis_makes_high_frequencies_dear_and_none_is_none():
    time = torch.arange(8000) / 16000
    low, high = (0.1 * torch.sin(2 * np.pi * hz * time)[None] for hz in (500, 6000))
    resolutions = [[512, 128, 512], [1024, 256, 1024]]
    plain = MultiResolutionSTFT(1, resolutions)
    emphasised = MultiResolutionSTFT(1, resolutions, hf_weight=3, hf_cutoff=3000, sample_rate=16000)
    ones = MultiResolutionSTFT(1, resolutions, hf_weight=1, hf_cutoff=3000, sample_rate=16000)

    def price(term, tone):
        target = low + high
        return term(Signals(target - 0.5 * tone), Signals(target)).item()

    dearer_high, dearer_low = (price(emphasised, tone) / price(plain, tone) for tone in (high, low))
    assert dearer_high > 1.05 > 1 > dearer_low
    assert price(ones, high) == price(plain, high)


def test_l1_is_the_mean_absolute_difference():
    estimate, target = speech_like(0).double(), speech_like(1).double()
    expected = np.abs(estimate.numpy() - target.numpy()).mean()
    assert L1(weight=3)(Signals(estimate), Signals(target)).item() == pytest.approx(expected, rel=1e-6)


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
