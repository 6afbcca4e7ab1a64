"""Several GRUs as one give what each of them gives, in double precision, where the order of sums has no effect."""

import pytest
import torch
from torch import nn

from gtcrn.streaming import grouped_gru
from gtcrn.streaming.recurrence import NARROW


def apart(grus, x, hidden):
    """Run each GRU by nn.GRU itself."""
    outputs, lasts = [], []
    for gru, share, h in zip(grus, x.chunk(len(grus), dim=2), hidden.chunk(len(grus), dim=1)):
        y, last = nn.GRU.forward(gru, share, None if gru.bidirectional else h[None].contiguous())
        outputs.append(y)
        lasts.append(last[0])
    return torch.cat(outputs, dim=2), torch.cat(lasts, dim=1)


def example(count, bidirectional, hidden_size=4):
    torch.manual_seed(0)
    options = {"batch_first": True, "bidirectional": bidirectional, "dtype": torch.float64}
    grus = nn.ModuleList(nn.GRU(3, hidden_size, **options) for _ in range(count))
    x = torch.randn(5, 7, 3 * count, dtype=torch.float64, requires_grad=True)
    hidden = torch.randn(5, hidden_size * count, dtype=torch.float64)
    return grus, x, hidden


SHAPES = [(1, False), (1, True), (2, False), (2, True), (3, True)]


@pytest.mark.parametrize("hidden_size", [4, NARROW])
@pytest.mark.parametrize(("count", "bidirectional"), SHAPES)
def test_equals_each_gru(count, bidirectional, hidden_size):
    grus, x, hidden = example(count, bidirectional, hidden_size)
    y, last = grouped_gru(grus, x, None if bidirectional else hidden)
    expected, expected_last = apart(grus, x, hidden)
    torch.testing.assert_close(y, expected)
    if not bidirectional:
        torch.testing.assert_close(last, expected_last)


@pytest.mark.parametrize(("count", "bidirectional"), SHAPES)
def test_gradients_equal_those_of_each_gru(count, bidirectional):
    grus, x, hidden = example(count, bidirectional)
    inputs = [x, *grus.parameters()]
    ours = torch.autograd.grad(grouped_gru(grus, x, None if bidirectional else hidden)[0].square().sum(), inputs)
    theirs = torch.autograd.grad(apart(grus, x, hidden)[0].square().sum(), inputs)
    torch.testing.assert_close(ours, theirs)


def test_narrow_ones_take_their_steps_together(monkeypatch):
    grus, x, _ = example(2, True)
    expected = grouped_gru(grus, x)[0]
    monkeypatch.setattr(nn.GRU, "forward", None)
    assert torch.equal(grouped_gru(grus, x)[0], expected)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_who_watches_a_gru_sees_it_run(bidirectional):
    grus, x, hidden = example(2, bidirectional)
    unwatched = grouped_gru(grus, x, None if bidirectional else hidden)[0]
    seen = []
    grus[1].register_forward_hook(lambda gru, inputs, output: seen.append(output[0]))
    watched = grouped_gru(grus, x, None if bidirectional else hidden)[0]
    torch.testing.assert_close(watched, unwatched)
    torch.testing.assert_close(seen, [watched.chunk(2, dim=2)[1]])
