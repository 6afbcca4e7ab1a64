"""The smallest networks in integers that have every operator, trained by nobody."""

import numpy as np
import pytest
import torch

from gtcrn.export.integer.calibration import bands, calibrated
from gtcrn.models import micro


def tiny(**knobs):
    """GTCRN-Micro of 4 channels, with statistics, biases and slopes as in a trained network."""
    torch.manual_seed(0)
    sizes = dict(channels=4, stacks=1, blocks=2, erb_low_bins=9, erb_bands=8, n_fft=64, hop_length=32)
    enhancer = micro.build(**sizes | knobs)
    for module in enhancer.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            torch.nn.init.normal_(module.bias, 0, 0.1)
    return enhancer.eval().requires_grad_(False)


MODELS = {
    "micro": {},
    "micro_int8": dict(activation="relu", transposed=False, decoder_groups=None),
    "one_channel_a_half": dict(channels=2, encoder_groups=1),
}


@pytest.fixture(scope="session", params=MODELS)
def enhancer(request):
    return tiny(**MODELS[request.param])


@pytest.fixture(scope="session")
def noise():
    """(N,), 10 s at 16 kHz, louder and softer."""
    rng = np.random.default_rng(0)
    return (rng.normal(0, 0.1, 160000) * np.repeat(rng.uniform(0.05, 1.5, 40), 4000)).astype(np.float32)


@pytest.fixture(scope="session", params=["int8", "mixed", "int16x8"])
def network(request, enhancer, noise):
    return calibrated(enhancer, request.param, [noise[:8000], noise[32000:40000]])


@pytest.fixture(scope="session")
def least_snr(network):
    """dB, of what they make of noise."""
    return {"int8": 18, "mixed": 18, "int16x8": 32}[network.name]


@pytest.fixture(scope="session")
def some_bands(enhancer, noise):
    """(1, 3, T, bands)"""
    return bands(enhancer, noise[64000:68000])
