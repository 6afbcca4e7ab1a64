"""A program in torch, which runs whole utterances from a zero state in float or with the rounding of the integers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gtcrn.quantization.codes import CODES, FIXED, HEADROOM
from gtcrn.quantization.program import ALL_INT8, RHO, Op, Program, lower
from gtcrn.quantization.rounding import FakeQuantize, rescaled, round_straight_through

# bits of activations by name, see `Program`; weights always have 8
BITS = {
    "int8": ALL_INT8,
    "int16x8": {"*": 16},
    "mixed": {"bands": 16, "features": 16, "encoder.*": 16, "*.tra.gated": 8, "*.tra.*": 16, "*": 8},
}
LARGEST_BIAS = {8: 2**30, 16: 2**40}  # in int32 and in int64, with room for the products that are added
FINEST = 1 / 64  # smallest ratio of an output's scale to that of its input; kernels take slightly smaller ones
_SAMPLES = 30_000  # values of a tensor from which its range is chosen
_SHRINK = (1.0, 0.85, 0.7, 0.55, 0.45, 0.35, 0.25, 0.18, 0.12, 0.08, 0.05, 0.02)  # factors of a range's ends to try


def key(name: str) -> str:
    """Return a tensor's name in a form that torch accepts as the name of a parameter."""
    return name.replace(".", "/")


class Network(nn.Module):
    """A network in integers, simulated: bands (B, 3, T, bands) -> mask (B, 2, T, bands).

    quantized: names of the tensors (see `Program.owners`) whose rounding is simulated, none at first.
    quantized_weights: whether the rounding of the weights is simulated. `quantize` sets both.

    Its parameters, by name (see `key`), are weights, biases and slopes, and log_scale and zero (point) of every tensor
    with a scale of its own that is not `FIXED`. The effective weights and biases are the parameters times gain and
    lift of each output channel, which are one until `normalise` is called.
    """

    def __init__(self, program: Program):
        super().__init__()
        self.program = program
        self.weights = _parameters(program.weights)
        self.biases = _parameters(program.biases)
        ones = {name: torch.ones(len(bias)) for name, bias in program.biases.items()}
        self.gain, self.lift = (_parameters(ones).requires_grad_(False) for _ in range(2))
        self.slopes = _parameters({op.output: torch.tensor(op.options["slope"]) for op in _leaky(program)})
        kinds = {op.output: op.kind for op in program.ops}
        self._reads = {op.output: op.inputs[0] for op in program.ops}
        fixed = {name: FIXED[program.bits[name]].get(kinds.get(name)) for name in program.owners()}
        self.fixed = {name: scale_zero for name, scale_zero in fixed.items() if scale_zero}
        learnt = {name: torch.zeros(()) for name in fixed if name not in self.fixed}
        self.log_scale, self.zero = _parameters(learnt), _parameters(learnt)
        for name in learnt:
            self.zero[key(name)].requires_grad_(program.bits[name] == 8)  # with 16 bits it is always 0
        self.quantized: frozenset[str] | set[str] = frozenset()
        self.quantized_weights = False
        self._observe: Callable[[str, Tensor], None] | None = None

    @property
    def name(self) -> str:
        """The key of `BITS` that has these bits."""
        return next(name for name, bits in BITS.items() if bits == self.program.bits_by_name)

    def quantize(self) -> Network:
        """Simulate every rounding from now on, and return the network."""
        self.quantized, self.quantized_weights = frozenset(self.program.owners()), True
        return self

    # the numbers

    def weight(self, name: str) -> Tensor:
        return self.weights[key(name)] * self.gain[key(name)][:, None, None, None]

    def bias(self, name: str) -> Tensor:
        return self.biases[key(name)] * self.lift[key(name)]

    def weight_scale(self, name: str) -> Tensor:
        """Return the scale of every output channel's weights, (O,), large enough that its bias fits its integer type.

        The bias has the scale of the input times that of the weights.
        """
        needed = self.weight(name).detach().abs().amax(dim=(1, 2, 3)).clamp(min=1e-8) / 127
        x_scale, _ = self.scale_zero(self.program.scale_of[self._reads[name]])
        largest = x_scale.detach() * LARGEST_BIAS[self.program.bits[name]]
        return torch.maximum(needed, self.bias(name).detach().abs() / largest)

    def scale_zero(self, owner: str) -> tuple[Tensor, Tensor]:
        """Return the scale and zero point, (1,) each, of a tensor that has its own."""
        if owner in self.fixed:
            scale, zero = self.fixed[owner]
            return torch.tensor([scale]), torch.tensor([float(zero)])
        return self.log_scale[key(owner)].exp().reshape(1), self.zero[key(owner)].reshape(1)

    # running

    def forward(self, bands: Tensor) -> Tensor:
        high = self.fake_quantize("bands", bands)
        low = self.fake_quantize("bands", (bands - high) * self.program.rho)
        values = {"bands": torch.cat([high, low], dim=1)}
        for op in self.program.ops:
            values[op.output] = self.fake_quantize(op.output, self.run(op, *(values[name] for name in op.inputs)))
        return values[self.program.output]

    def fake_quantize(self, name: str, x: Tensor) -> Tensor:
        """Return x as the integer codes of the named tensor represent it; x itself if its rounding is not simulated."""
        if self._observe:
            self._observe(name, x)
        owner = self.program.scale_of[name]
        if owner not in self.quantized:
            return x
        return FakeQuantize.apply(x, *self.scale_zero(owner), *CODES[self.program.bits[owner]])

    def run(self, op: Op, *inputs: Tensor) -> Tensor:
        """Run one operator, (B, C, T, F) in and out, before its output is rounded.

        Operators whose kernels do not round to the nearest are rounded here, as the kernel does it.
        """
        z = self._run_float(op, *inputs)
        if op.kind in ("leaky", "mean") and self.program.scale_of[op.output] in self.quantized:
            z = z + (self._run_as_kernel(op, *inputs) - z).detach()
        return z

    @torch.no_grad()
    def _run_as_kernel(self, op: Op, x: Tensor) -> Tensor:
        before, after = (self.scale_zero(self.program.scale_of[name])[0] for name in (op.inputs[0], op.output))
        steps = (x / before).round()
        if op.kind == "mean":
            return after * rescaled(steps.sum(3, keepdim=True), (before / after).item() / x.shape[3])
        slope = before * self.slopes[key(op.output)] / after  # in this order the kernel computes it, to the bit
        return torch.where(x < 0, after * rescaled(steps, slope.item()), x)

    def _run_float(self, op: Op, x: Tensor, *others: Tensor) -> Tensor:
        o = op.options
        match op.kind:
            case "conv":
                weight, bias = self._fake_quantized_weight(op.output), self.bias(op.output)
                stride, dilation = (1, o["stride"]), (o["dilation"], 1)
                z = F.conv2d(F.pad(x, o["pad"]), weight, bias, stride, dilation=dilation, groups=o["groups"])
                return F.relu(z) if o["relu"] else z
            case "leaky":
                return F.prelu(x, self.slopes[key(op.output)].reshape(1))
            case "past":
                return F.pad(x, (0, 0, o["memory"], 0))
            case "add":
                (y,) = others
                return F.relu(x + y) if o["relu"] else x + y
            case "mul":
                return x * others[0]
            case "square":
                return x * x
            case "mean":
                return x.mean(dim=3, keepdim=True)
            case "logistic":
                return torch.sigmoid(x)
            case "tanh":
                return torch.tanh(x)
            case "slice":
                channels, bands = self.program.shapes[op.output]
                return x.narrow(1, o["channel"], channels).narrow(3, o["band"], bands)
            case "join":
                return torch.cat([x, *others], dim=3)
            case "interleave":
                return torch.stack([x, *others], dim=2).flatten(1, 2)
            case "unfold":
                return x.unflatten(1, (2, -1)).movedim(1, 4).flatten(3, 4)[..., :-1]
            case "requantize":
                return x
        raise ValueError(op.kind)

    def _fake_quantized_weight(self, name: str) -> Tensor:
        weight = self.weight(name)
        if not self.quantized_weights:
            return weight
        scale = self.weight_scale(name)[:, None, None, None]
        return round_straight_through(weight / scale) * scale

    # ranges, before training

    @torch.no_grad()
    def calibrate(self, batches: Iterable[Tensor], input_peak: float | None = None) -> None:
        """Choose every scale and zero point from the values that tensors have in float for bands (B, 3, T, bands).

        8-bit ranges minimise the squared error, which for inputs of a leaky ReLU is that of its output. 16-bit ranges
        hold all values with `HEADROOM`. input_peak: the largest band that must fit; None for the largest in `batches`.
        """
        samples, ends = self._values(batches)
        slopes = {op.inputs[0]: abs(op.options["slope"]) for op in _leaky(self.program)}
        for owner in samples.keys() - self.fixed.keys():
            low, high = ends[owner]
            if owner == "bands":
                high = input_peak or max(-low, high)
                low = -high
            elif self.program.bits[owner] == 8:
                low, high = _best_range(samples[owner], slopes.get(owner, 1.0), low, high)
            else:
                low, high = HEADROOM[16] * low, HEADROOM[16] * high
            self.set_range(owner, low, high)
        self._limit_scales()

    def _limit_scales(self) -> None:
        """Raise scales that are too fine for the kernels, such as those of tensors that were always zero."""
        for op in self.program.ops:
            owner = self.program.scale_of[op.output]
            if owner in self.fixed:
                continue
            scales = [self.scale_zero(self.program.scale_of[name])[0] for name in op.inputs]
            match op.kind:
                case "conv":
                    incoming = scales[0] * self.weight_scale(op.output).max()
                case "mul":
                    incoming = scales[0] * scales[1]
                case "square":
                    incoming = scales[0].square()
                case _:
                    incoming = max(scales)
            log_scale = self.log_scale[key(owner)]
            log_scale.clamp_(min=(FINEST * incoming).log().item())

    def set_range(self, owner: str, low: float, high: float) -> None:
        """Set the scale and zero point of a tensor so that its codes reach from low ≤ 0 to high ≥ 0."""
        if self.program.bits[owner] == 16:
            scale, zero = max(-low, high, 1e-6) / CODES[16][1], 0.0
        else:
            scale = max(high - low, 1e-6) / 255
            zero = min(max(round(-128 - low / scale), -128), 127)
        self.log_scale[key(owner)].data.fill_(scale).log_()
        self.zero[key(owner)].data.fill_(zero)

    @torch.no_grad()
    def equalise(self, batches: Iterable[Tensor]) -> None:
        """Equalise the peaks of the channels between two convolutions, without changing the output in float.

        Before depthwise kernels, which have a scale for each channel, all channels get the same peak; before dense
        ones they come closer by the square root of their ratio. 16-bit tensors need no equalisation.
        """
        peaks: dict[str, Tensor] = {}

        def observe(name: str, x: Tensor) -> None:
            peak = x.abs().amax(dim=(0, 2, 3))
            peaks[name] = torch.maximum(peaks.get(name, peak), peak)

        with self._observed(observe):
            for bands in batches:
                self(bands)
        for first, second, between in self.program.chains():
            if self.program.bits[between] == 16:
                continue
            depthwise = self.program.producer(second).options["groups"] > 1
            peak = peaks[between]
            gain = (peak.max() / peak.clamp(min=1e-3 * peak.max())) ** (1.0 if depthwise else 0.5)
            gain = gain.nan_to_num(1.0)  # a tensor that is zero everywhere
            self.weights[key(first)] *= gain[:, None, None, None]
            self.biases[key(first)] *= gain
            self.weights[key(second)] /= gain.reshape((-1, 1, 1, 1) if depthwise else (1, -1, 1, 1))

    @torch.no_grad()
    def normalise(self, bands: Tensor) -> None:
        """Scale the parameters of every channel to about one, so that one learning rate suits all of them."""
        spread: dict[str, Tensor] = {}
        with self._observed(lambda name, x: spread.setdefault(name, x.std(dim=(0, 2, 3)))):
            self(bands)
        for name in self.program.weights:
            weight, bias = self.weight(name), self.bias(name)
            self.gain[key(name)].copy_(weight.abs().amax(dim=(1, 2, 3)).clamp(min=1e-8))
            self.lift[key(name)].copy_(spread[name].clamp(min=1e-4))
            self.weights[key(name)].copy_(weight / self.gain[key(name)][:, None, None, None])
            self.biases[key(name)].copy_(bias / self.lift[key(name)])

    @contextmanager
    def _observed(self, observe: Callable[[str, Tensor], None]) -> Iterator[None]:
        """Run in float within the block, and pass the name and value of every tensor to `observe`."""
        state = self.quantized, self.quantized_weights
        self.quantized, self.quantized_weights, self._observe = frozenset(), False, observe
        try:
            yield
        finally:
            (self.quantized, self.quantized_weights), self._observe = state, None

    def _values(self, batches: Iterable[Tensor]) -> tuple[dict[str, Tensor], dict[str, tuple[float, float]]]:
        """Return a sample of values and the extremes, 0 included, of every tensor with a scale of its own."""
        samples: dict[str, list[Tensor]] = {}
        ends: dict[str, tuple[float, float]] = {}
        generator = torch.Generator().manual_seed(0)

        def observe(name: str, x: Tensor) -> None:
            owner, x = self.program.scale_of[name], x.flatten()
            low, high = ends.get(owner, (0.0, 0.0))
            ends[owner] = min(low, x.min().item()), max(high, x.max().item())
            samples.setdefault(owner, []).append(subsample(x))

        def subsample(x: Tensor) -> Tensor:
            return x[torch.randint(len(x), (_SAMPLES,), generator=generator)] if len(x) > _SAMPLES else x

        with self._observed(observe):
            for bands in batches:
                self(bands)
        return {owner: subsample(torch.cat(parts)) for owner, parts in samples.items()}, ends


def quantize_core(core: nn.Module, quantize: str, batches: list[Tensor], input_peak: float) -> Network:
    """Quantize a core after training: lower, equalise and calibrate it with batches of bands (B, 3, T, bands).

    quantize: a key of `BITS`. input_peak: see `Network.calibrate`.
    """
    network = Network(lower(core, RHO, quantize == "int8", BITS[quantize]))
    network.equalise(batches)
    network.calibrate(batches, input_peak)
    return network.quantize().eval()


def _parameters(tensors: dict[str, Tensor]) -> nn.ParameterDict:
    return nn.ParameterDict({key(name): nn.Parameter(tensor.clone()) for name, tensor in tensors.items()})


def _leaky(program: Program) -> list[Op]:
    return [op for op in program.ops if op.kind == "leaky"]


def _best_range(x: Tensor, slope: float, low: float, high: float) -> tuple[float, float]:
    """Return the 8-bit range within [low, high] with the least squared error of x after a leaky ReLU of this slope."""
    true, best = F.leaky_relu(x, slope), (float("inf"), low, high)
    for shrink_low in _SHRINK if low < 0 else (1.0,):
        for shrink_high in _SHRINK[:8] if high > 0 else (1.0,):
            ends = low * shrink_low, high * shrink_high
            scale = max(ends[1] - ends[0], 1e-9) / 255
            zero = min(max(round(-128 - ends[0] / scale), -128), 127)
            codes = torch.fake_quantize_per_tensor_affine(x, scale, zero, -128, 127)
            error = (F.leaky_relu(codes, slope) - true).square().mean().item()
            best = min(best, (error, *ends))
    return best[1:]
