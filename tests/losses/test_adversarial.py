"""The adversarial losses of generator and discriminators equal values computed by hand and with NumPy."""

import numpy as np
import pytest
import torch

from gtcrn.losses.adversarial import feature_matching, least_squares


def test_least_squares_is_a_mean_over_discriminators_whatever_their_sizes():
    scores = [torch.tensor([[1.0, 0.0], [1.0, 2.0]]), torch.tensor([[0.0, 0.0, 0.0]])]
    assert least_squares(scores, 1).item() == pytest.approx((2 / 4 + 1) / 2)
    assert least_squares(scores, 0).item() == pytest.approx((6 / 4 + 0) / 2)


def test_feature_matching_by_numpy():
    generator = torch.Generator().manual_seed(0)
    ours, theirs = (
        [[torch.randn(2, c, 7, generator=generator).double() for c in sizes] for sizes in ([1, 2, 3, 4, 5, 6], [3, 2])]
        for _ in range(2)
    )
    weights = [1, 0.5, 0.25, 0.125, 1, 1]
    expected = np.mean(
        [
            weights[layer] * np.abs(y.numpy() - s.numpy()).mean()
            for features in zip(ours, theirs)
            for layer, (y, s) in enumerate(zip(*features))
        ]
    )
    assert feature_matching(ours, theirs).item() == pytest.approx(expected, rel=1e-6)
    assert feature_matching(ours, ours) == 0


def test_real_features_get_no_gradient():
    ours, theirs = (torch.randn(1, 2, 3, requires_grad=True) for _ in range(2))
    feature_matching([[ours]], [[theirs]]).backward()
    assert ours.grad is not None and theirs.grad is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_low_precision_is_summed_in_float32(dtype):
    score = torch.full((1, 70000), 300.0, dtype=dtype, requires_grad=True)  # its square is beyond float16
    loss = least_squares([score], 0) + feature_matching([[score]], [[torch.zeros_like(score)]])
    (gradient,) = torch.autograd.grad(loss, score)
    assert loss.dtype == torch.float32 and loss.item() == pytest.approx(90300, rel=1e-4)  # halves are 1e-3 off
    assert gradient.isfinite().all()
