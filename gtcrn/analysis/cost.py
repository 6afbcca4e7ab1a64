"""Parameters, multiply-accumulates, state, latency: what a model costs.

Two parameter conventions are in use, never to be mixed in one column: trainable ones, and all of
them with the fixed ERB matrices where the authors keep those as frozen parameters.

Two counts of MACs stand beside each other. `exact`: one multiply-accumulate per weight application
in convolutions, transposed convolutions, linear layers, recurrent layers and the ERB product; no
bias, normalisation, activation or STFT. `thop`: what the thop package prints for the authors' code.
"""

from __future__ import annotations

import math
import time
import warnings
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gtcrn.dsp import ERBMatrix
from gtcrn.models.enhancer import Enhancer
from gtcrn.streaming import CausalConv1d, CausalConv2d, CausalConvTranspose2d, TimeGRU, flatten


@dataclass(frozen=True)
class Cost:
    """parameters: counts. macs: per second of audio. state_bytes: of one stream. *_ms: milliseconds."""

    parameters_trainable: int
    parameters_all: int
    macs_exact: int
    macs_thop: int
    macs_by_module: dict[str, int]
    frames: int
    state_bytes: int
    window_ms: float
    hop_ms: float
    lookahead_ms: float
    latency_ms: float  # of the algorithm: what the buffering alone costs, hop included
    compute_ms: float  # of one hop in eager PyTorch on one thread, median


def measure(enhancer: Enhancer) -> Cost:
    """Count and time `enhancer` on one second of audio: 1 + rate // hop frames, as the literature counts."""
    training = enhancer.training
    enhancer.eval()
    rate, hop = enhancer.sample_rate, enhancer.hop_length
    frames = enhancer.core_input(torch.randn(1, rate, generator=torch.Generator().manual_seed(0)))
    frames = frames[:, :, : 1 + rate // hop]
    by_module = count_macs(enhancer.core, frames)
    streams = not enhancer.total_lookahead()
    cost = Cost(
        parameters_trainable=sum(p.numel() for p in enhancer.parameters() if p.requires_grad),
        parameters_all=sum(p.numel() for p in enhancer.parameters()),
        macs_exact=sum(by_module.values()),
        macs_thop=count_macs_thop(enhancer.core, frames),
        macs_by_module=by_module,
        frames=frames.shape[2],
        state_bytes=sum(t.nbytes for t in flatten(enhancer.initial_state(1)).values()) if streams else 0,
        window_ms=1e3 * enhancer.window_length / rate,
        hop_ms=1e3 * hop / rate,
        lookahead_ms=1e3 * enhancer.total_lookahead() * hop / rate,
        latency_ms=1e3 * (enhancer.latency + hop) / rate,
        compute_ms=time_per_hop(enhancer) if streams else math.nan,
    )
    enhancer.train(training)
    return cost


def count_macs(core: nn.Module, frames: Tensor) -> dict[str, int]:
    """{module name: exact multiply-accumulates} of one forward pass over `frames` (B, C, T, F)."""
    counts: dict[str, int] = {}

    def hook(name):
        def count(module, inputs, output):
            counts[name] = counts.get(name, 0) + _exact_macs(module, inputs[0], output)

        return count

    handles = [
        module.register_forward_hook(hook(name))
        for name, module in core.named_modules()
        if isinstance(module, _WEIGHTED)
    ]
    try:
        with torch.no_grad():
            core(frames)
    finally:
        for handle in handles:
            handle.remove()
    return counts


_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d)
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d)
_WEIGHTED = (*_TRANSPOSED, *_CONVOLUTIONS, nn.Linear, nn.GRU, nn.LSTM)


def _exact_macs(module: nn.Module, x: Tensor, output: Tensor | tuple) -> int:
    y = output[0] if isinstance(output, tuple) else output
    if isinstance(module, _TRANSPOSED):  # each input element, the past's too, meets every tap of its filters once
        memory = getattr(module, "memory", 0)
        return x.numel() // (x.shape[1] * x.shape[2]) * (x.shape[2] + memory) * module.weight.numel()
    if isinstance(module, _CONVOLUTIONS):
        return y.numel() // y.shape[1] * module.weight.numel()
    if isinstance(module, nn.Linear):
        return x.numel() // module.in_features * module.weight.numel()
    steps = x.numel() // module.input_size
    return steps * sum(w.numel() for name, w in module.named_parameters() if name.startswith("weight"))


def count_macs_thop(core: nn.Module, frames: Tensor) -> int:
    """The same pass counted by thop, as its users know it from the authors' code.

    thop misses functional calls and raw parameters (so Light v3's ERB product), counts GRU gates
    and normalisations too, and counts a strided transposed convolution by its output.
    """
    import thop
    from thop.rnn_hooks import count_gru
    from thop.vision.basic_hooks import count_convNd, count_linear, zero_ops

    def first_output(count):  # our layers give (y, state); thop expects y
        return lambda module, inputs, output: count(module, inputs, output[0])

    def gru_over_time(module, inputs, output):  # thop expects one sequence per row, (B·F, T, C)
        count_gru(module, (inputs[0].transpose(1, 2).flatten(0, 1),), output)

    def erb(module, inputs, output):
        # a buffer is invisible to thop in the authors' code, a frozen parameter is not
        (count_linear if isinstance(module.weight, nn.Parameter) else zero_ops)(module, inputs, output)

    rules = {
        CausalConv1d: first_output(count_convNd),
        CausalConv2d: first_output(count_convNd),
        CausalConvTranspose2d: first_output(count_convNd),
        TimeGRU: gru_over_time,
        ERBMatrix: erb,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # thop warns about its own interface
        macs, _ = thop.profile(core, inputs=(frames,), custom_ops=rules, verbose=False)
    for module in core.modules():  # thop leaves its counters behind as buffers
        module._buffers.pop("total_ops", None)
        module._buffers.pop("total_params", None)
    return int(macs)


def time_per_hop(enhancer: Enhancer, hops: int = 100) -> float:
    """Median milliseconds for one hop of a stream in eager PyTorch on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    wave = torch.randn(1, enhancer.hop_length, generator=torch.Generator().manual_seed(0))
    state = enhancer.initial_state(1)
    times = []
    with torch.inference_mode():
        for _ in range(hops):
            begin = time.perf_counter()
            _, state = enhancer(wave, state)
            times.append(time.perf_counter() - begin)
    torch.set_num_threads(threads)
    return 1e3 * sorted(times)[hops // 2]
