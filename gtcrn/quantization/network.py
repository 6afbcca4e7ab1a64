"""A program in torch: whole utterances from a zero state, in float or with every rounding of the integers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gtcrn.quantization.program import EIGHT, RHO, Op, Program, lower
from gtcrn.quantization.rounding import Rounded, rescaled, rounded_through

# of activations, see `Program`; weights always have 8
BITS = {
    "int8": EIGHT,
    "int16x8": {"*": 16},
    "mixed": {"bands": 16, "features": 16, "encoder.*": 16, "*.tra.gated": 8, "*.tra.*": 16, "*": 8},
}
CODES = {8: (-128, 127), 16: (-32768, 32767)}
# of which LiteRT demands these scales and zero points
FIXED = {
    8: {"logistic": (2**-8, -128.0), "tanh": (2**-7, 0.0)},
    16: {"logistic": (2**-15, 0.0), "tanh": (2**-15, 0.0)},
}
HEADROOM = 4.0  # that 16 bits leave above what was seen: 12 dB
LARGEST_BIAS = {8: 2**30, 16: 2**40}  # of 32 and of 64 bits, with room for what is added
FINEST = 1 / 64  # step of an output, of that of what goes into it; kernels take ratios a little beyond
_SAMPLES = 30_000  # of a tensor, from which its range is chosen
_SHRINK = (1.0, 0.85, 0.7, 0.55, 0.45, 0.35, 0.25, 0.18, 0.12, 0.08, 0.05, 0.02)  # of a range's ends


def key(name: str) -> str:
    """A tensor's name as torch lets parameters be called."""
    return name.replace(".", "/")


class Network(nn.Module):
    """forward(bands (B, 3, T, bands)) -> mask (B, 2, T, bands).

    quantized: the tensors, by `Program.owners`, whose rounding is simulated, none at first; quantized_weights: whether
    that of the weights is. `quantize` sets both.

    Parameters by name (see `key`): weights, biases, slopes; log_scale and zero of every tensor with a scale of its own
    that is not `FIXED`. What stands in `weights` and `biases` is multiplied by gain and lift, per output channel: one,
    until `normalise` is called.
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
            self.zero[key(name)].requires_grad_(program.bits[name] == 8)  # of 16 bits it is 0
        self.quantized: frozenset[str] | set[str] = frozenset()
        self.quantized_weights = False
        self._seen: Callable[[str, Tensor], None] | None = None

    @property
    def name(self) -> str:
        """Of these integers, a key of `BITS`."""
        return next(name for name, bits in BITS.items() if bits == self.program.bits_by_name)

    def quantize(self) -> Network:
        """From here on every rounding is simulated."""
        self.quantized, self.quantized_weights = frozenset(self.program.owners()), True
        return self

    # the numbers

    def weight(self, name: str) -> Tensor:
        return self.weights[key(name)] * self.gain[key(name)][:, None, None, None]

    def bias(self, name: str) -> Tensor:
        return self.biases[key(name)] * self.lift[key(name)]

    def weight_scale(self, name: str) -> Tensor:
        """Of every output channel, (O,): such that its bias, in steps of input times weight, is an integer too."""
        needed = self.weight(name).detach().abs().amax(dim=(1, 2, 3)).clamp(min=1e-8) / 127
        x_scale, _ = self.scale_zero(self.program.scale_of[self._reads[name]])
        largest = x_scale.detach() * LARGEST_BIAS[self.program.bits[name]]
        return torch.maximum(needed, self.bias(name).detach().abs() / largest)

    def scale_zero(self, owner: str) -> tuple[Tensor, Tensor]:
        """Scale and zero point, (1,) each, of a tensor that has its own."""
        if owner in self.fixed:
            scale, zero = self.fixed[owner]
            return torch.tensor([scale]), torch.tensor([zero])
        return self.log_scale[key(owner)].exp().reshape(1), self.zero[key(owner)].reshape(1)

    # running

    def forward(self, bands: Tensor) -> Tensor:
        high = self.rounded("bands", bands)
        low = self.rounded("bands", (bands - high) * self.program.rho)
        values = {"bands": torch.cat([high, low], dim=1)}
        for op in self.program.ops:
            values[op.output] = self.rounded(op.output, self.run(op, *(values[name] for name in op.inputs)))
        return values[self.program.output]

    def rounded(self, name: str, x: Tensor) -> Tensor:
        """What the integers of a tensor hold of x."""
        if self._seen:
            self._seen(name, x)
        owner = self.program.scale_of[name]
        if owner not in self.quantized:
            return x
        return Rounded.apply(x, *self.scale_zero(owner), *CODES[self.program.bits[owner]])

    def run(self, op: Op, x: Tensor, y: Tensor | None = None) -> Tensor:
        """One operator, (B, C, T, F) in and out, before its output is rounded, unless its kernel does not round to the
        nearest."""
        z = self._exactly(op, x, y)
        if op.kind in ("leaky", "mean") and self.program.scale_of[op.output] in self.quantized:
            z = z + (self._as_kernel(op, x) - z).detach()
        return z

    @torch.no_grad()
    def _as_kernel(self, op: Op, x: Tensor) -> Tensor:
        before, after = (self.scale_zero(self.program.scale_of[name])[0] for name in (op.inputs[0], op.output))
        steps = (x / before).round()
        if op.kind == "mean":
            return after * rescaled(steps.sum(3, keepdim=True), (before / after).item() / x.shape[3])
        slope = before * self.slopes[key(op.output)] / after  # to the bit as the kernel has it
        return torch.where(x < 0, after * rescaled(steps, slope.item()), x)

    def _exactly(self, op: Op, x: Tensor, y: Tensor | None) -> Tensor:
        o = op.options
        match op.kind:
            case "conv":
                weight, bias = self._rounded_weight(op.output), self.bias(op.output)
                stride, dilation = (1, o["stride"]), (o["dilation"], 1)
                z = F.conv2d(F.pad(x, o["pad"]), weight, bias, stride, dilation=dilation, groups=o["groups"])
                return F.relu(z) if o["relu"] else z
            case "leaky":
                return F.prelu(x, self.slopes[key(op.output)].reshape(1))
            case "past":
                return F.pad(x, (0, 0, o["memory"], 0))
            case "add":
                return F.relu(x + y) if o["relu"] else x + y
            case "mul":
                return x * y
            case "square":
                return x * x
            case "mean":
                return x.mean(dim=3, keepdim=True)
            case "logistic":
                return torch.sigmoid(x)
            case "tanh":
                return torch.tanh(x)
            case "slice":
                return x[:, o["start"] : o["start"] + self.program.shapes[op.output][0]]
            case "interleave":
                return torch.stack([x, y], dim=2).flatten(1, 2)
            case "unfold":
                return x.unflatten(1, (2, -1)).movedim(1, 4).flatten(3, 4)[..., :-1]
            case "requantize":
                return x
        raise ValueError(op.kind)

    def _rounded_weight(self, name: str) -> Tensor:
        weight = self.weight(name)
        if not self.quantized_weights:
            return weight
        scale = self.weight_scale(name)[:, None, None, None]
        return rounded_through(weight / scale) * scale

    # ranges, before training

    @torch.no_grad()
    def calibrate(self, batches: Iterable[Tensor], input_peak: float | None = None) -> None:
        """Sets every scale and zero point by what the tensors hold in float for bands (B, 3, T, bands).

        8 bits: the ranges of the least squared error, that of pre-activations after the leaky ReLU. 16 bits: all that
        was seen, and `HEADROOM` above. input_peak: the largest band, else the largest seen.
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
                low, high = HEADROOM * low, HEADROOM * high
            self.set_range(owner, low, high)
        self._limit_scales()

    def _limit_scales(self) -> None:
        """Scales that integers can be brought to: not those of a tensor that is zero for all that was heard."""
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
        """The scale and zero point by which low ≤ 0 and high ≥ 0 are the last codes."""
        if self.program.bits[owner] == 16:
            scale, zero = max(-low, high, 1e-6) / CODES[16][1], 0.0
        else:
            scale = max(high - low, 1e-6) / 255
            zero = min(max(round(-128 - low / scale), -128), 127)
        self.log_scale[key(owner)].data.fill_(scale).log_()
        self.zero[key(owner)].data.fill_(zero)

    @torch.no_grad()
    def equalise(self, batches: Iterable[Tensor]) -> None:
        """Gives every channel between two convolutions the same peak, which changes nothing in float.

        Wholly in front of depthwise kernels, which have a scale for each channel, by its root in front of dense ones;
        16 bits need none.
        """
        peaks: dict[str, Tensor] = {}

        def see(name: str, x: Tensor) -> None:
            peak = x.abs().amax(dim=(0, 2, 3))
            peaks[name] = torch.maximum(peaks.get(name, peak), peak)

        with self._watched(see):
            for bands in batches:
                self(bands)
        for first, second, between in self.program.chains():
            if self.program.bits[between] == 16:
                continue
            depthwise = self.program.producer(second).options["groups"] > 1
            peak = peaks[between]
            gain = (peak.max() / peak.clamp(min=1e-3 * peak.max())) ** (1.0 if depthwise else 0.5)
            gain = gain.nan_to_num(1.0)  # of what is zero everywhere
            self.weights[key(first)] *= gain[:, None, None, None]
            self.biases[key(first)] *= gain
            self.weights[key(second)] /= gain.reshape((-1, 1, 1, 1) if depthwise else (1, -1, 1, 1))

    @torch.no_grad()
    def normalise(self, bands: Tensor) -> None:
        """Parameters of about one, whatever the size of their channel, so that one learning rate suits all."""
        spread: dict[str, Tensor] = {}
        with self._watched(lambda name, x: spread.setdefault(name, x.std(dim=(0, 2, 3)))):
            self(bands)
        for name in self.program.weights:
            weight, bias = self.weight(name), self.bias(name)
            self.gain[key(name)].copy_(weight.abs().amax(dim=(1, 2, 3)).clamp(min=1e-8))
            self.lift[key(name)].copy_(spread[name].clamp(min=1e-4))
            self.weights[key(name)].copy_(weight / self.gain[key(name)][:, None, None, None])
            self.biases[key(name)].copy_(bias / self.lift[key(name)])

    @contextmanager
    def _watched(self, see: Callable[[str, Tensor], None]) -> Iterator[None]:
        """Every tensor is shown, in float."""
        state = self.quantized, self.quantized_weights
        self.quantized, self.quantized_weights, self._seen = frozenset(), False, see
        try:
            yield
        finally:
            (self.quantized, self.quantized_weights), self._seen = state, None

    def _values(self, batches: Iterable[Tensor]) -> tuple[dict[str, Tensor], dict[str, tuple[float, float]]]:
        """By tensor with a scale of its own: some of its values, and the smallest and largest of all, 0 among them."""
        samples: dict[str, list[Tensor]] = {}
        ends: dict[str, tuple[float, float]] = {}
        generator = torch.Generator().manual_seed(0)

        def see(name: str, x: Tensor) -> None:
            owner, x = self.program.scale_of[name], x.flatten()
            low, high = ends.get(owner, (0.0, 0.0))
            ends[owner] = min(low, x.min().item()), max(high, x.max().item())
            samples.setdefault(owner, []).append(some_of(x))

        def some_of(x: Tensor) -> Tensor:
            return x[torch.randint(len(x), (_SAMPLES,), generator=generator)] if len(x) > _SAMPLES else x

        with self._watched(see):
            for bands in batches:
                self(bands)
        return {owner: some_of(torch.cat(parts)) for owner, parts in samples.items()}, ends


def quantized(core: nn.Module, quantize: str, batches: list[Tensor], input_peak: float) -> Network:
    """The core in integers without training: lowered, equalised and calibrated by bands (B, 3, T, bands).

    quantize: a key of `BITS`.
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
    """Within [low, high] the range whose 8 bits have the least squared error after a leaky ReLU of this slope."""
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
