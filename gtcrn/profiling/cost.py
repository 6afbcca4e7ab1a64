"""The cost of a model: parameters, multiply-accumulates, memory and latency.

Two conventions for parameters are in use, which must never be mixed in one column: trainable ones, and
all of them with the fixed ERB matrices where the authors keep those as frozen parameters.

MACs are counted in two ways, `exact` and `thop`, as `EXACT` and `THOP` define them.

Memory of activations is given by two figures, in float32 for one hop of a stream, without the state.
`sum`: the outputs of all layers that have weights, as Radosavovic et al. count (CVPR 2020). `peak`: the
most that is in use at one time, for which a microcontroller needs room beside weights and state.
"""

from __future__ import annotations

import math
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.utils import parametrize

from gtcrn import kernels
from gtcrn.models.enhancer import Enhancer
from gtcrn.models.fastenhancer import DotProduct
from gtcrn.streaming import flatten

EXACT = (
    "exact: weight MACs of convolutions, linear and recurrent layers and the ERB product, and the two products of "
    "attention; no STFT."
)
THOP = (
    "thop: what the thop package prints for the authors' code; it counts GRU gates and normalisations and strided "
    "transposed convolutions by their output, and misses functional calls."
)


@dataclass(frozen=True)
class Cost:
    """The cost of a model: counts of parameters, MACs per second of audio, bytes of one stream, times in ms.

    A model that looks ahead cannot stream, so its bytes are 0 and its compute_ms is nan, as it is where it was not
    measured.
    """

    parameters_trainable: int
    parameters_all: int
    macs_exact: int
    macs_thop: int
    macs_by_module: dict[str, int]
    frames: int  # that count as one second
    state_bytes: int
    activation_bytes: int  # sum for one hop
    peak_bytes: int  # the most for one hop in use at one time
    window_ms: float
    hop_ms: float
    lookahead_ms: float
    latency_ms: float  # of the algorithm: the delay by buffering alone, hop included
    compute_ms: float  # CPU time of one hop in eager PyTorch on one thread, median

    @property
    def streams(self) -> bool:
        return not self.lookahead_ms

    @property
    def real_time_factor(self) -> float:
        return self.compute_ms / self.hop_ms


def measure(enhancer: Enhancer, timed: bool = True) -> Cost:
    """Measure the cost of `enhancer` on one second of audio, and if it is `timed`, how long it computes.

    One second has 1 + rate // hop frames, as the literature counts: the last one only begins within the second
    (126 for DTLN; 122 with padding=none, which has no frames beyond the ends). For a model of samples, every hop
    of the second is a frame.
    """
    training = enhancer.training
    enhancer.eval()
    rate, hop = enhancer.sample_rate, enhancer.hop_length
    x = enhancer.core_input(torch.randn(1, rate, generator=torch.Generator().manual_seed(0)))
    if x.dim() == 4:  # (B, C, T, F)
        frame, x = 1, x[:, :, : 1 + rate // hop]
    else:  # (B, 1, N)
        frame = hop
    streams = not enhancer.total_lookahead()
    by_module: dict[str, int] = {}
    with parametrize.cached():  # normalised weights are computed once, as in a deployed model
        with _observed(enhancer.core, _counting(by_module)):  # one pass for both counts, since some models are slow
            macs_thop = count_macs_thop(enhancer.core, x)
        activations, peak = activation_bytes(enhancer.core, x[:, :, :frame]) if streams else (0, 0)
        compute_ms = time_per_hop(enhancer) if streams and timed else math.nan
    cost = Cost(
        parameters_trainable=sum(p.numel() for p in enhancer.parameters() if p.requires_grad),
        parameters_all=sum(p.numel() for p in enhancer.parameters()),
        macs_exact=sum(by_module.values()),
        macs_thop=macs_thop,
        macs_by_module=by_module,
        frames=x.shape[2] // frame,
        state_bytes=sum(t.nbytes for t in flatten(enhancer.initial_state(1)).values()) if streams else 0,
        activation_bytes=activations,
        peak_bytes=peak,
        window_ms=1e3 * enhancer.window_length / rate,
        hop_ms=1e3 * hop / rate,
        lookahead_ms=1e3 * enhancer.total_lookahead() * hop / rate,
        latency_ms=1e3 * (enhancer.latency + hop) / rate,
        compute_ms=compute_ms,
    )
    enhancer.train(training)
    return cost


_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d)
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d)
_WEIGHTED = (*_TRANSPOSED, *_CONVOLUTIONS, nn.Linear, nn.GRU, nn.LSTM)
_COUNTED = (*_WEIGHTED, DotProduct)


@contextmanager
def _observed(
    core: nn.Module, observe: Callable[[str, nn.Module, Tensor, Tensor], None], kinds: tuple = _COUNTED
) -> Iterator[None]:
    """Call `observe(name, layer, input, output)` after every layer of these kinds that runs within the block."""

    def hook(name):
        def after(layer, inputs, output):
            observe(name, layer, inputs[0], _signal(output))

        return after

    handles = [
        layer.register_forward_hook(hook(name)) for name, layer in core.named_modules() if isinstance(layer, kinds)
    ]
    try:
        with torch.no_grad():
            yield
    finally:
        for handle in handles:
            handle.remove()


def count_macs(core: nn.Module, x: Tensor) -> dict[str, int]:
    """Return the exact multiply-accumulates of each layer, by name, for a pass over `x`, (B, C, T, F) or (B, C, N)."""
    counts: dict[str, int] = {}
    with _observed(core, _counting(counts)):
        core(x)
    return counts


def _counting(counts: dict[str, int]) -> Callable[[str, nn.Module, Tensor, Tensor], None]:
    def count(name, layer, x, y):
        counts[name] = counts.get(name, 0) + _exact_macs(layer, x, y)

    return count


def _signal(output: Tensor | tuple) -> Tensor:
    """Return the output of a layer without the state that recurrent and streaming layers return with it."""
    return output[0] if isinstance(output, tuple) else output


def _exact_macs(module: nn.Module, x: Tensor, y: Tensor) -> int:
    if isinstance(module, _TRANSPOSED):  # each input element, also of the past, meets every tap of its filters once
        memory = getattr(module, "memory", 0)
        return x.numel() // (x.shape[1] * x.shape[2]) * (x.shape[2] + memory) * module.weight.numel()
    if isinstance(module, _CONVOLUTIONS):
        return y.numel() // y.shape[1] * module.weight.numel()
    if isinstance(module, DotProduct):  # of every query with every key, then of what comes of them with every value
        return 2 * x.numel() * x.shape[2]
    if isinstance(module, nn.Linear):
        return x.numel() // module.in_features * module.weight.numel()
    steps = x.numel() // module.input_size
    # by the attributes, since those that are normalised are no parameters themselves
    return steps * sum(weight.numel() for weights in module.all_weights for weight in weights if weight.dim() == 2)


def count_macs_thop(core: nn.Module, x: Tensor) -> int:
    """Count the MACs of a pass over `x` by thop, as `THOP` defines them: without the ERB product of Light v3, too."""
    import thop
    from thop.rnn_hooks import count_gru, count_lstm
    from thop.vision.basic_hooks import count_convNd, count_linear, count_normalization

    def count(module, inputs, output):  # thop knows torch's own classes only, not those derived from them
        x = inputs[0]
        if isinstance(module, (nn.GRU, nn.LSTM)):  # thop expects (B, T, C)
            count_recurrent = count_gru if isinstance(module, nn.GRU) else count_lstm
            count_recurrent(module, (x.reshape(1, -1, x.shape[-1]),), output)
        elif not isinstance(module, nn.Linear):
            count_convNd(module, inputs, _signal(output))
        elif "weight" not in module._buffers:  # in the authors' code thop sees a frozen parameter, but no buffer
            count_linear(module, inputs, output)

    rules = {type(module): count for module in core.modules() if isinstance(module, _WEIGHTED)}
    rules[kernels.LayerNorm] = count_normalization  # as of torch's, which GTCRN's family has in the authors' code
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # thop warns about its own interface
        macs, _ = thop.profile(core, inputs=(x,), custom_ops=rules, verbose=False)
    for module in core.modules():  # thop leaves its counters behind as buffers
        module._buffers.pop("total_ops", None)
        module._buffers.pop("total_params", None)
    return int(macs)


def activation_bytes(core: nn.Module, x: Tensor) -> tuple[int, int]:
    """Return the sum and peak of the activations of a streaming core for one hop `x`, (1, C, 1, F) or (1, 1, hop).

    In use are the input and output of the current layer, and all inputs and outputs of earlier layers that the
    code still holds (skip connections). It is assumed that normalisations and activations work in place, and that
    convolutions need no unrolled copy of their input.
    """
    total = peak = 0
    in_use: dict[StorageWeakRef, int] = {}

    def count(name, layer, x, y):
        nonlocal total, peak, in_use
        total += y.nbytes
        in_use |= {StorageWeakRef(tensor.untyped_storage()): tensor.untyped_storage().nbytes() for tensor in (x, y)}
        in_use = {storage: size for storage, size in in_use.items() if not storage.expired()}
        peak = max(peak, sum(in_use.values()))

    with _observed(core, count, _WEIGHTED), kernels.use("torch"):  # our kernels keep more than a device would
        core(x.clone(), core.initial_state(1))  # x itself is a view of the memory of a whole second
    return total, peak


def time_per_hop(enhancer: Enhancer, hops: int = 100, seconds: float = 1.0) -> float:
    """Return the median CPU time in milliseconds of one hop of a stream in eager PyTorch on one thread.

    It is taken over `hops`, or as many as fit in `seconds`. The load of other programs does not count.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    wave = torch.randn(1, enhancer.hop_length, generator=torch.Generator().manual_seed(0))
    state = enhancer.initial_state(1)
    times: list[float] = []
    with torch.inference_mode():
        while len(times) < hops and sum(times) < seconds:
            begin = time.thread_time()
            _, state = enhancer(wave, state)
            times.append(time.thread_time() - begin)
    torch.set_num_threads(threads)
    return 1e3 * statistics.median(times)
