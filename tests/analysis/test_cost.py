"""Published and measured costs come out of the same code."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from gtcrn.analysis.cost import count_macs, count_macs_thop, measure
from gtcrn.models import gtcrn, light_v3

# shared/references/README.md: trainable, all parameters, thop M, exact M of one second (63 frames)
TABLE = {
    "gtcrn": (lambda: gtcrn.build(), 23_669, 48_245, 34.077, 26.596),
    "light_v3_two": (lambda: light_v3.build(causal=False), 7_640, 7_640, 16.680, 17.029),
    "light_v3_one": (lambda: light_v3.build(use_two_dpgrnn=False, causal=False), 5_540, 5_540, 11.597, 12.875),
}


@pytest.mark.parametrize("name", TABLE)
def test_cost_table(name):
    build, trainable, everything, thop, exact = TABLE[name]
    enhancer = build().eval()
    spec = torch.randn(1, 2, 63, 257)
    assert sum(p.numel() for p in enhancer.parameters() if p.requires_grad) == trainable
    assert sum(p.numel() for p in enhancer.parameters()) == everything
    assert count_macs_thop(enhancer.core, spec) / 1e6 == pytest.approx(thop, abs=5e-4)
    assert sum(count_macs(enhancer.core, spec).values()) / 1e6 == pytest.approx(exact, abs=5e-4)
    with FlopCounterMode(display=False) as flops, torch.no_grad():
        enhancer.core(spec)
    assert sum(count_macs(enhancer.core, spec).values()) == flops.get_total_flops() / 2


def test_causal_light_v3_costs_the_same():
    spec = torch.randn(1, 2, 63, 257)
    causal, offline = (light_v3.build(causal=causal).eval().core for causal in (True, False))
    assert count_macs(causal, spec) == count_macs(offline, spec)


def test_measuring_leaves_no_trace():
    enhancer = gtcrn.build()
    keys = list(enhancer.state_dict())
    cost = measure(enhancer)
    assert list(enhancer.state_dict()) == keys
    assert all(module.training for module in enhancer.modules())
    assert (cost.window_ms, cost.hop_ms, cost.lookahead_ms, cost.latency_ms) == (32, 16, 0, 32)
    assert cost.compute_ms > 0
    assert measure(light_v3.build(causal=False)).lookahead_ms == 352
