"""What surrounds the core of an enhancer keeps single precision where autocast halves that of the core."""

from functools import partial

import pytest
import torch

from gtcrn.models import dtln, fastenhancer, gtcrn, light_v3, micro, timbre, ulunas

SYSTEMS = {
    "gtcrn": gtcrn.build,
    "light_v3": light_v3.build,
    "micro": micro.build,
    "ulunas": ulunas.build,
    "dtln": dtln.build,
    "fastenhancer": fastenhancer.build,
    "timbre": partial(timbre.build, channels=(4, 8), strides=(2,)),
}


@pytest.mark.parametrize("system", SYSTEMS)
def test_autocast_reaches_the_core_alone(system):
    torch.manual_seed(0)
    enhancer = SYSTEMS[system]().requires_grad_(False).eval()
    noisy = 0.1 * torch.randn(1, 2400)
    frames = enhancer.core_input(noisy)
    through = enhancer.waveform(frames, 2400) if system != "timbre" else None  # whose core gives samples
    plain, _ = enhancer.estimate(noisy)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(enhancer.core_input(noisy), frames)
        outputs = [output for output in enhancer.estimate(noisy) if output is not None]
        if through is not None:
            assert torch.equal(enhancer.waveform(frames, 2400), through)
    assert all(output.dtype == torch.float32 for output in outputs)
    assert 0 < (outputs[0] - plain).abs().max() < 0.1  # the core did compute in half precision
