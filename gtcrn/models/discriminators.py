"""Discriminators, which take a waveform and are trained to score clean speech 1 and a generator's output 0.

    MultiScaleDiscriminator     the wave at full rate, half of it, a quarter (Kumar et al., MelGAN, 2019)
    MultiPeriodDiscriminator    the wave folded into rows of p samples (Kong et al., HiFi-GAN, 2020)

All convolutions have spectral norm, whose power iteration takes a step whenever a weight is used in training.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from gtcrn.errors import UserError


class Judgement(NamedTuple):
    """The scores and features that one discriminator gives a batch.

    score: (B, *), one for every position in time. features: outputs of its hidden layers, first to last, (B, C, …).
    """

    score: Tensor
    features: list[Tensor]


class ConvolutionalDiscriminator(nn.Module):
    """A stack of convolutions with leaky ReLUs between them, which maps (B, 1, …) to a `Judgement`."""

    def __init__(self, layers: Sequence[nn.Module]):
        super().__init__()
        self.layers = nn.ModuleList(spectral_norm(layer) for layer in layers)

    def forward(self, x: Tensor) -> Judgement:
        *hidden, last = self.layers
        features = []
        for layer in hidden:
            x = F.leaky_relu(layer(x), 0.2)
            features.append(x)
        return Judgement(last(x).flatten(1), features)


class MultiScaleDiscriminator(nn.Module):
    """One discriminator per scale, which maps (B, N) to a `Judgement` per scale, each at half the rate of the last.

    channels: of the first layer, then of the strided layers after it. kernel_size: of the strided layers.
    """

    def __init__(self, scales: int = 3, channels: Sequence[int] = (64, 128, 256, 512, 1024), kernel_size: int = 5):
        super().__init__()
        _check_channels(channels)
        _check_kernel(kernel_size)
        if scales < 1:
            raise UserError(f"discriminator.scales={scales}: must be 1 or more")
        self.discriminators = nn.ModuleList(
            ConvolutionalDiscriminator(self._layers(channels, kernel_size)) for _ in range(scales)
        )

    def forward(self, wave: Tensor) -> list[Judgement]:
        x, judgements = wave[:, None], []
        for depth, discriminator in enumerate(self.discriminators):
            if depth:
                x = F.avg_pool1d(x, 4, stride=2, padding=2)
            judgements.append(discriminator(x))
        return judgements

    @staticmethod
    def _layers(channels: Sequence[int], kernel_size: int) -> list[nn.Module]:
        first, last = channels[0], channels[-1]
        strided = [
            # every layer has four times as many groups as the last, as far as they divide the channels
            nn.Conv1d(c, d, kernel_size, stride=2, padding=kernel_size // 2, groups=math.gcd(4**depth, c, d))
            for depth, (c, d) in enumerate(zip(channels, channels[1:]))
        ]
        return [
            nn.Conv1d(1, first, 15, padding=7),
            *strided,
            nn.Conv1d(last, last, 5, padding=2),
            nn.Conv1d(last, 1, 3, padding=1),
        ]


class MultiPeriodDiscriminator(nn.Module):
    """One discriminator per period p, which sees every p-th sample: it maps (B, N) to a `Judgement` per period.

    periods: in samples. channels: of the strided layers. kernel_size: of the strided layers along time.
    """

    def __init__(
        self,
        periods: Sequence[int] = (2, 3, 5, 7, 11),
        channels: Sequence[int] = (32, 128, 512, 1024),
        kernel_size: int = 5,
    ):
        super().__init__()
        _check_channels(channels)
        _check_kernel(kernel_size)
        if not periods or min(periods) < 1:
            raise UserError(f"discriminator.periods={list(periods)}: must be at least one number of 1 or more")
        self.periods = tuple(periods)
        self.discriminators = nn.ModuleList(
            ConvolutionalDiscriminator(self._layers(channels, kernel_size)) for _ in periods
        )

    def forward(self, wave: Tensor) -> list[Judgement]:
        return [
            discriminator(self._fold(wave, period))
            for period, discriminator in zip(self.periods, self.discriminators, strict=True)
        ]

    @staticmethod
    def _fold(wave: Tensor, period: int) -> Tensor:
        """Fold (B, N) into (B, 1, ceil(N / period), period); the signal is mirrored at its end to fill the last row."""
        padded = F.pad(wave, (0, -wave.shape[1] % period), mode="reflect")
        return padded.unflatten(1, (1, -1, period))

    @staticmethod
    def _layers(channels: Sequence[int], kernel_size: int) -> list[nn.Module]:
        last = channels[-1]
        strided = [
            nn.Conv2d(c, d, (kernel_size, 1), stride=(3, 1), padding=(kernel_size // 2, 0))
            for c, d in zip((1, *channels), channels)
        ]
        return [
            *strided,
            nn.Conv2d(last, last, (5, 1), padding=(2, 0)),
            nn.Conv2d(last, 1, (3, 1), padding=(1, 0)),
        ]


class CombinedDiscriminator(nn.Module):
    """Several discriminators, by name, that judge the same wave (B, N): it returns the judgements of all of them."""

    def __init__(self, discriminators: Mapping[str, nn.Module]):
        super().__init__()
        if not discriminators:
            raise UserError("discriminator.discriminators is empty: name at least one")
        self.discriminators = nn.ModuleDict(dict(discriminators))

    def forward(self, wave: Tensor) -> list[Judgement]:
        return [judgement for discriminator in self.discriminators.values() for judgement in discriminator(wave)]


def _check_channels(channels: Sequence[int]) -> None:
    if not channels or min(channels) < 1:
        raise UserError(f"discriminator.channels={list(channels)}: must be at least one number of 1 or more")


def _check_kernel(kernel_size: int) -> None:
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise UserError(f"discriminator.kernel_size={kernel_size}: must be odd")
