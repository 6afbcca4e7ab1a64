"""The adversarial losses of a generator and its discriminators. Lists hold one element per discriminator.

The losses are float32 (float64 stays) whatever the precision of the discriminators.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

# weights of the hidden layers, first to last, as published; deeper layers have weight 1
_LAYER_WEIGHTS = (1.0, 0.5, 0.25, 0.125)


def least_squares(scores: Sequence[Tensor], label: float) -> Tensor:
    """Return the mean over discriminators of the mean squared distance of their scores (B, *) from `label`, a scalar
    (Mao et al., Least squares generative adversarial networks, 2017).

    The discriminators minimise least_squares(of clean, 1) + least_squares(of estimates, 0), the generator
    least_squares(of estimates, 1).
    """
    return torch.stack([(_at_least_float32(score) - label).square().mean() for score in scores]).mean()


def feature_matching(estimate: Sequence[Sequence[Tensor]], target: Sequence[Sequence[Tensor]]) -> Tensor:
    """Return the weighted mean absolute difference of the hidden layers' outputs, over all layers of all
    discriminators, a scalar (Larsen et al., Autoencoding beyond pixels using a learned similarity metric, 2016).
    `target` gets no gradient.
    """
    distances = [
        (_LAYER_WEIGHTS[layer] if layer < len(_LAYER_WEIGHTS) else 1.0)
        * F.l1_loss(_at_least_float32(y), _at_least_float32(s.detach()))
        for features in zip(estimate, target, strict=True)
        for layer, (y, s) in enumerate(zip(*features, strict=True))
    ]
    return torch.stack(distances).mean()


def _at_least_float32(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()
