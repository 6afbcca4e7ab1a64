"""A step of training gives the same with either kernels, for whole models."""

import pytest
import torch

from gtcrn import kernels
from gtcrn.losses import SISDR, CompressedComplex, Loss, Signals
from gtcrn.models import dtln, gtcrn, light_v3, micro

MODELS = {"gtcrn": gtcrn.build, "light_v3": light_v3.build, "micro": micro.build, "dtln": dtln.build}
LOSS = Loss({"complex": CompressedComplex(30, 0.3, 512, 256), "sisdr": SISDR(0.1)})


def step(name, choice):
    """Return loss, gradients, and the statistics afterwards, in double precision."""
    torch.manual_seed(0)
    model = MODELS[name]().double().train()
    noisy, clean = 0.1 * torch.randn(2, 2, 6000, dtype=torch.float64)
    torch.manual_seed(1)  # of dropout
    with kernels.use(choice):
        total, _ = LOSS(Signals(*model.estimate(noisy)), Signals(clean, model.spectra(clean)))
        total.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.requires_grad}
    return {"loss": total} | gradients | dict(model.named_buffers())


@pytest.mark.parametrize("name", MODELS)
def test_a_step_is_the_same(name):
    torch.testing.assert_close(step(name, "numba"), step(name, "torch"), rtol=1e-6, atol=1e-9)
