"""Discriminators: their architecture against an independent formula, their shapes, and what they refuse."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hydra.utils import instantiate
from omegaconf import OmegaConf

from gtcrn.errors import UserError
from gtcrn.models.discriminators import CombinedDiscriminator, MultiPeriodDiscriminator, MultiScaleDiscriminator

CONFIGS = Path(__file__).parents[2] / "conf" / "training" / "discriminator"


def load(name):
    config = OmegaConf.load(CONFIGS / f"{name}.yaml")
    for base in config.pop("defaults", []):
        config = OmegaConf.merge(OmegaConf.load(CONFIGS / f"{base}.yaml"), config)
    return instantiate(config, _convert_="all")


def normalised(layer):
    """The layer's weight over its largest singular value."""
    original = layer.parametrizations.weight.original
    return original / torch.linalg.matrix_norm(original.flatten(1), ord=2)


def converged(discriminator):
    """In evaluation mode and double precision, at the end of the power iteration."""
    for layer in (module for module in discriminator.double().modules() if hasattr(module, "parametrizations")):
        norm = layer.parametrizations.weight[0]
        left, _, right = torch.linalg.svd(layer.parametrizations.weight.original.detach().flatten(1))
        norm._u.copy_(left[:, 0])
        norm._v.copy_(right[0])
    return discriminator.eval()


@torch.no_grad()
def test_multi_scale_is_the_published_stack():
    torch.manual_seed(0)
    discriminator = converged(MultiScaleDiscriminator(scales=2, channels=(4, 8, 16), kernel_size=5))
    wave = torch.randn(2, 500).double()
    judgements = discriminator(wave)
    x = wave[:, None]
    for judgement, stack in zip(judgements, discriminator.discriminators, strict=True):
        y, features = x, []
        first, strided, grouped, wide, last = stack.layers
        for layer, options in (
            (first, {"padding": 7}),
            (strided, {"padding": 2, "stride": 2}),
            (grouped, {"padding": 2, "stride": 2, "groups": 4}),
            (wide, {"padding": 2}),
        ):
            y = F.conv1d(y, normalised(layer), layer.bias, **options)
            y = torch.where(y > 0, y, 0.2 * y)
            features.append(y)
        torch.testing.assert_close(judgement.features, features, rtol=1e-6, atol=1e-9)
        score = F.conv1d(y, normalised(last), last.bias, padding=1)[:, 0]
        torch.testing.assert_close(judgement.score, score, rtol=1e-6, atol=1e-9)
        x = F.pad(x, (2, 2)).unfold(2, 4, 2).mean(dim=-1)


@torch.no_grad()
@pytest.mark.parametrize("period", [2, 3, 11])
def test_multi_period_convolves_every_pth_sample(period):
    """Every column of the folded wave alone, by one-dimensional convolutions."""
    torch.manual_seed(0)
    discriminator = converged(MultiPeriodDiscriminator([period], channels=(4, 8)))
    (judgement,) = discriminator(wave := torch.randn(2, 400).double())
    missing = -400 % period
    padded = torch.cat([wave, wave.flip(1)[:, 1 : 1 + missing]], dim=1)
    scores = []
    for phase in range(period):
        y = padded[:, None, phase::period]
        *hidden, last = discriminator.discriminators[0].layers
        for layer, stride, feature in zip(hidden, (3, 3, 1), judgement.features, strict=True):
            y = F.leaky_relu(F.conv1d(y, normalised(layer)[..., 0], layer.bias, stride, padding=2), 0.2)
            torch.testing.assert_close(feature[..., phase], y, rtol=1e-6, atol=1e-9)
        scores.append(F.conv1d(y, normalised(last)[..., 0], last.bias, padding=1)[:, 0])
    torch.testing.assert_close(judgement.score, torch.stack(scores, dim=2).flatten(1), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    ("name", "judgements", "features", "parameters"),
    [("published", 3, 6, 16_241_283), ("small", 2, 4, 13_410), ("combined", 8, None, 57_333_448)],
)
def test_configurations(name, judgements, features, parameters):
    discriminator = load(name)
    assert sum(p.numel() for p in discriminator.parameters()) == parameters
    found = discriminator(torch.zeros(1, 301))
    assert len(found) == judgements
    for judgement in found:
        assert judgement.score.shape[0] == 1 and judgement.score.dim() == 2
        assert features is None or len(judgement.features) == features


def test_groups_of_the_published_widths():
    layers = MultiScaleDiscriminator(scales=1).discriminators[0].layers
    assert [layer.groups for layer in layers] == [1, 1, 4, 16, 64, 1, 1]


@pytest.mark.parametrize("length", [12, 100, 1001])
def test_any_length_and_batch_items_apart(length):
    torch.manual_seed(0)
    parts = {"scale": MultiScaleDiscriminator(2, [4, 6]), "period": MultiPeriodDiscriminator([2, 11], [4])}
    discriminator = CombinedDiscriminator(parts).double().eval()
    waves = torch.randn(3, length).double()
    together = discriminator(waves)
    for i in range(3):
        for one, all_ in zip(discriminator(waves[i : i + 1]), together, strict=True):
            torch.testing.assert_close(one.score[0], all_.score[i])
            torch.testing.assert_close([f[0] for f in one.features], [f[i] for f in all_.features])


@pytest.mark.parametrize(
    ("build", "culprit"),
    [
        (lambda: MultiScaleDiscriminator(scales=0), "discriminator.scales=0"),
        (lambda: MultiScaleDiscriminator(channels=[]), r"discriminator.channels=\[\]"),
        (lambda: MultiScaleDiscriminator(channels=[4, 0]), r"discriminator.channels=\[4, 0\]"),
        (lambda: MultiScaleDiscriminator(kernel_size=4), "discriminator.kernel_size=4"),
        (lambda: MultiPeriodDiscriminator(periods=[2, 0]), r"discriminator.periods=\[2, 0\]"),
        (lambda: MultiPeriodDiscriminator(kernel_size=0), "discriminator.kernel_size=0"),
        (lambda: CombinedDiscriminator({}), "discriminator.discriminators"),
    ],
)
def test_illegal_values_are_named(build, culprit):
    with pytest.raises(UserError, match=culprit):
        build()
