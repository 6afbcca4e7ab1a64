"""Compiled kernels compute where they can and may; elsewhere PyTorch's operators do, or an error says why not."""

import pytest
import torch
from torch._subclasses import FakeTensorMode

from gtcrn import kernels
from gtcrn.errors import UserError
from gtcrn.kernels.choice import compiled

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
X = torch.zeros(1)


def test_auto_takes_them_where_they_can_compute():
    with kernels.use("auto"):
        assert kernels.chosen(CPU) == "numba"
        assert kernels.chosen(CPU, precise=False) == kernels.chosen(CUDA) == "torch"
        assert compiled(X) and compiled(X.double())
        assert not compiled(X.bfloat16()) and not compiled(X.to("meta"))


def test_torch_never_takes_them():
    with kernels.use("torch"):
        assert kernels.chosen(CPU) == "torch" and not compiled(X)


@pytest.mark.parametrize(("device", "precise"), [(CUDA, True), (CPU, False)])
def test_who_demands_them_is_told_where_they_cannot_compute(device, precise):
    with kernels.use("numba"), pytest.raises(UserError, match="kernels=numba: they compute on a CPU alone"):
        kernels.chosen(device, precise)


def test_autocast_takes_torchs():
    with torch.autocast("cpu", torch.bfloat16):
        assert not compiled(X)


def test_a_traced_graph_takes_torchs():
    seen = []

    def function(x):
        seen.append(compiled(x))
        return x + 1

    torch.jit.trace(function, X, check_trace=False)
    with FakeTensorMode() as mode:
        function(mode.from_tensor(X))
    assert seen == [False, False]


def test_a_choice_ends_with_its_block():
    with kernels.use("torch"):
        with kernels.use("auto"):
            assert compiled(X)
        assert not compiled(X)
        kernels.use("auto")  # from now on
        assert compiled(X)


def test_an_unknown_choice_is_refused():
    with pytest.raises(UserError, match="kernels=cuda: must be one of auto, numba, torch"):
        kernels.use("cuda")
