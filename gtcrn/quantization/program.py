"""A network from ERB bands to mask as a list of integer operators, written once.

Tensors have names, and the shape (C, F) for a single frame. Simulation, calibration, training, writing, checking and
reporting all walk over the same list. TFLite Micro has all operators: transposed convolutions and repeated bands become
plain convolutions to twice the channels and a RESHAPE, since frequency precedes the channels in memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gtcrn.errors import UserError
from gtcrn.models.light_v3 import TemporalGate
from gtcrn.models.micro import ConvBlock, GTConvBlock, Micro, TemporalBlock

ALL_INT8 = {"*": 8}
RHO = 20  # the residual of the input is multiplied by this before it is rounded


@dataclass(frozen=True)
class Op:
    """One operator of a program, with these options for each kind:

    conv         stride, pad (both of frequency), dilation (of time), groups, relu
    leaky        slope; output codes have the scale of the input, so that positive ones stay the same
    past         memory: prepends so many past frames of the input, (memory + 1, C, F)
    slice        channel, band: the first ones
    join         puts the bands of its inputs one after the other
    interleave   alternates the channels of two inputs: x0, y0, x1, y1, …
    unfold       (2C, F) -> (C, 2F - 1): channel c + C is the band after that of channel c
    add          relu
    mean         over frequency
    requantize   to another scale or number of bits
    mul, square, logistic and tanh have none
    """

    kind: str
    inputs: tuple[str, ...]
    output: str
    options: dict = field(default_factory=dict)


class Program:
    """A list of operators, ops, from the tensor "bands" to the tensor `output`.

    The input (6, bands) is a residual code of the bands in two parts, high = round(x) and low = round(rho · (x -
    high)), with the channels |S|, re and im of high, then of low.

    shapes: (C, F) of each tensor. weights, biases: (O, I / groups, time, frequency) and (O,), by the name of a
    convolution's output. scale_of: the tensor whose scale and zero point a tensor shares, or itself. bits: 8 or 16 for
    each tensor, the same for all inputs and outputs of an operator, except requantize.

    bits_by_name: bits of a tensor by a pattern for its name, such as "encoder.*"; the first that fits counts.
    """

    def __init__(self, n_bands: int, rho: int, bits_by_name: Mapping[str, int]):
        self.rho, self.bits_by_name = rho, bits_by_name
        self.ops: list[Op] = []
        self.shapes = {"bands": (6, n_bands)}
        self.weights: dict[str, Tensor] = {}
        self.biases: dict[str, Tensor] = {}
        self.scale_of = {"bands": "bands"}
        self.bits = {"bands": self._bits_of("bands")}
        self.output = ""

    def emit(self, kind: str, inputs: tuple[str, ...], output: str, shape: tuple[int, int], same=False, **options):
        """Append an operator and return the name of its output.

        same: whether the output has the scale of the first input. Inputs with other bits than the output are
        requantized first.
        """
        bits = self._bits_of(output)
        if kind != "requantize":
            inputs = tuple(self._with_bits(name, bits) for name in inputs)
        return self._append(Op(kind, inputs, output, options), shape, bits, same)

    def _append(self, op: Op, shape: tuple[int, int], bits: int, same=False) -> str:
        self.ops.append(op)
        self.shapes[op.output], self.bits[op.output] = shape, bits
        self.scale_of[op.output] = self.scale_of[op.inputs[0]] if same else op.output
        return op.output

    def _with_bits(self, name: str, bits: int) -> str:
        if self.bits[name] == bits:
            return name
        other = f"{name}.int{bits}"
        known = other in self.shapes
        return other if known else self._append(Op("requantize", (name,), other), self.shapes[name], bits)

    def _bits_of(self, name: str) -> int:
        return next(bits for pattern, bits in self.bits_by_name.items() if fnmatchcase(name, pattern))

    def conv(self, name: str, x: str, weight: Tensor, bias: Tensor, stride=1, pad=(0, 0), dilation=1, groups=1) -> str:
        out_freqs = (self.shapes[x][1] + sum(pad) - weight.shape[3]) // stride + 1
        self.weights[name], self.biases[name] = weight.detach().clone(), bias.detach().clone()
        shape, options = (len(weight), out_freqs), dict(stride=stride, pad=pad, dilation=dilation, groups=groups)
        return self.emit("conv", (x,), name, shape, relu=False, **options)

    def past(self, name: str, x: str, memory: int) -> str:
        return self.emit("past", (x,), name, self.shapes[x], same=True, memory=memory) if memory else x

    def activation(self, name: str, x: str, module: nn.Module) -> str:
        """Append an activation; a ReLU becomes part of the operator before it."""
        match module:
            case nn.ReLU():
                self.ops[-1] = replace(self.ops[-1], options=self.ops[-1].options | {"relu": True})
                return x
            case nn.PReLU():
                return self.emit("leaky", (x,), name, self.shapes[x], same=True, slope=module.weight.item())
            case nn.Tanh():
                return self.emit("tanh", (x,), name, self.shapes[x])
        raise TypeError(module)

    def producer(self, name: str) -> Op | None:
        return next((op for op in self.ops if op.output == name), None)

    def readers(self, name: str) -> list[Op]:
        return [op for op in self.ops if name in op.inputs]

    def owners(self) -> list[str]:
        """Return the tensors that have a scale of their own, in order."""
        return list(dict.fromkeys(self.scale_of.values()))

    def states(self) -> dict[str, tuple[int, int, int]]:
        """Return the shape (memory, F, C) of every state, by the output of its `past` operator."""
        shapes = {}
        for op in self.ops:
            if op.kind == "past":
                channels, freqs = self.shapes[op.output]
                shapes[op.output] = (op.options["memory"], freqs, channels)
        return shapes

    def macs(self) -> dict[str, int]:
        """Return the multiply-accumulates of every convolution for one frame, by the name of its output."""
        return {name: weight.numel() * self.shapes[name][1] for name, weight in self.weights.items()}

    def wide_share(self) -> float:
        """Return the share of the multiply-accumulates whose activations have 16 bits."""
        macs = self.macs()
        return sum(count for name, count in macs.items() if self.bits[name] == 16) / sum(macs.values())

    def chains(self) -> Iterator[tuple[str, str, str]]:
        """Yield pairs of convolutions between which the gain of every channel is free.

        Of each pair these are the output of the first, the output of the second, and the input of the second. Between
        them are an activation, and perhaps a `past`, that nothing else reads.
        """
        for op in self.ops:
            if op.kind != "conv":
                continue
            between = op.output
            while len(readers := self.readers(between)) == 1 and readers[0].kind in ("leaky", "past"):
                between = readers[0].output
            active = op.options["relu"] or between != op.output
            if active and len(readers) == 1 and readers[0].kind == "conv":
                yield op.output, readers[0].output, between


def has_integer_form(core: nn.Module) -> bool:
    """Return whether a core is of a kind that can become a program, unless TFLite Micro lacks one of its operators."""
    return isinstance(core, Micro)


def require_integer_form(core: nn.Module) -> None:
    """Raise UserError for a core that can't become a program.

    It is one of another kind, or has operators that TFLite Micro lacks.
    """
    if not has_integer_form(core):
        raise UserError(
            f"{type(core).__name__} has no form in integers, since its recurrent layers have none; GTCRN-Micro has one "
            "(model=micro, model=micro_int8)"
        )
    for name, block in core.named_modules():
        if isinstance(block, GTConvBlock) and block.depth_conv.groups not in (1, block.depth_conv.in_channels):
            raise UserError(
                f"{name}.depth_conv has groups={block.depth_conv.groups}, and TFLite Micro has no grouped convolution; "
                "train with model.encoder_groups and model.decoder_groups of 1 or null (depthwise)"
            )


def lower(core: nn.Module, rho: int = RHO, fold: bool = True, bits: Mapping[str, int] = ALL_INT8) -> Program:
    """Lower the `mask` of Micro to a program whose output is equal up to float rounding.

    fold: fold the features into the first convolution, which saves a rounding of activations, and makes that of the
    weights coarser. bits: see `Program`.

    Raises UserError as `require_integer_form` does.
    """
    require_integer_form(core)
    program = Program(core.erb.n_bands, rho, bits)
    x = (_folded_features if fold else _features)(program, core)
    skips = [x]
    for i, block in list(enumerate(core.encoder))[1:]:
        x = LOWER[type(block)](program, f"encoder.{i}", x, block)
        skips.append(x)
    for i, stack in enumerate(core.dual_path):
        for j, block in enumerate(stack):
            x = _temporal_block(program, f"dual_path.{i}.{j}", x, block)
    for i, (block, skip) in enumerate(zip(core.decoder, reversed(skips), strict=True)):
        x = program.emit("add", (x, skip), f"decoder.{i}.sum", program.shapes[x], relu=False)
        x = LOWER[type(block)](program, f"decoder.{i}", x, block)
    program.output = x
    return program


def _features(p: Program, core: Micro) -> str:
    features, block = core.features.weight.detach(), core.encoder[0]
    x = p.conv("features", "bands", torch.cat([features, features]), features.new_zeros(6), pad=(1, 1), groups=6)
    weight, bias = _folded(block.conv, block.bn)
    weight = torch.cat([weight, weight / p.rho], 1)
    x = p.conv("encoder.0.conv", x, weight, bias, block.conv.stride[1], (block.conv.padding[1],) * 2)
    return p.activation("encoder.0.act", x, block.act)


def _folded_features(p: Program, core: Micro) -> str:
    """Append the features and the first block with one convolution in place of two.

    Between the two are zeros beyond the outer bands, so the first and the last output have kernels of their own.
    """
    block, name = core.encoder[0], "encoder.0"
    features, (weight, bias) = core.features.weight.detach(), _folded(block.conv, block.bn)
    beside, half, stride = features.shape[3] // 2, weight.shape[3] // 2, block.conv.stride[1]
    first = _composed(features, weight[..., half:])[..., beside:]
    last = _composed(features, weight[..., : half + 1])[..., : first.shape[3]]
    middle, pad = _composed(features, weight), half + beside - stride

    def convolved(part: str, x: str, kernel: Tensor, **options) -> str:
        y = p.conv(f"{name}.{part}", x, torch.cat([kernel, kernel / p.rho], 1), bias, **options)
        return p.activation(y, y, block.act) if isinstance(block.act, nn.ReLU) else y

    def outer(part: str, band: int) -> str:
        shape = p.shapes["bands"][0], first.shape[3]
        return p.emit("slice", ("bands",), f"{name}.{part}.bands", shape, same=True, channel=0, band=band)

    parts = (
        convolved("first", outer("first", 0), first),
        convolved("conv", "bands", middle, stride=stride, pad=(pad, pad)),
        convolved("last", outer("last", core.erb.n_bands - last.shape[3]), last),
    )
    shape = len(weight), sum(p.shapes[part][1] for part in parts)
    x = p.emit("join", parts, f"{name}.joined", shape)
    p.scale_of |= dict.fromkeys(parts, x)
    return x if isinstance(block.act, nn.ReLU) else p.activation(f"{name}.act", x, block.act)


def _conv_block(p: Program, name: str, x: str, block: ConvBlock) -> str:
    conv = block.conv
    repeats, transposed = isinstance(conv, nn.Sequential), isinstance(conv, nn.ConvTranspose2d)
    weight, bias = _folded(conv[1] if repeats else conv, block.bn)
    if not (repeats or transposed):
        y = p.conv(f"{name}.conv", x, weight, bias, conv.stride[1], (conv.padding[1],) * 2)
        return p.activation(f"{name}.act", y, block.act)
    # y[2i] and y[2i + 1] each have three taps on the bands x[i - 1], x[i], x[i + 1]
    if repeats:
        w0, w1, w2, w3 = weight.unbind(3)
        even, odd = torch.stack([w0, w1 + w2, w3], 3), torch.stack([torch.zeros_like(w0), w0 + w1, w2 + w3], 3)
    else:
        even, odd = weight[..., [4, 2, 0]], F.pad(weight[..., [3, 1]], (1, 0))
    y = p.conv(f"{name}.conv", x, torch.cat([even, odd]), bias.repeat(2), pad=(1, 1))
    y = p.activation(f"{name}.act", y, block.act)
    channels, freqs = p.shapes[y]
    return p.emit("unfold", (y,), f"{name}.unfold", (channels // 2, 2 * freqs - 1), same=True)


def _gt_block(p: Program, name: str, x: str, block: GTConvBlock) -> str:
    channels, freqs = p.shapes[x]
    half = channels // 2
    active = p.emit("slice", (x,), f"{name}.active", (half, freqs), same=True, channel=0, band=0)
    passing = p.emit("slice", (x,), f"{name}.passing", (half, freqs), same=True, channel=half, band=0)
    y = p.conv(f"{name}.point1", active, *_folded(block.point_conv1, block.point_bn1))
    y = p.activation(f"{name}.act1", y, block.point_act)
    y = p.past(f"{name}.past", y, block.depth_conv.memory)
    weight, bias = _folded(block.depth_conv, block.depth_bn)
    y = p.conv(f"{name}.depth", y, weight, bias, pad=(1, 1), groups=block.depth_conv.groups)
    y = p.activation(f"{name}.act2", y, block.depth_act)
    y = p.conv(f"{name}.point2", y, *_folded(block.point_conv2, block.point_bn2))
    y = _gate(p, f"{name}.tra", y, block.tra)
    passing = p.emit("requantize", (passing,), f"{name}.requantized", (half, freqs))
    out = p.emit("interleave", (y, passing), f"{name}.out", (channels, freqs))
    p.scale_of[y] = p.scale_of[passing] = out
    return out


def _gate(p: Program, name: str, x: str, gate: TemporalGate) -> str:
    channels, _ = p.shapes[x]
    y = p.emit("square", (x,), f"{name}.square", p.shapes[x])
    y = p.emit("mean", (y,), f"{name}.energy", (channels, 1))
    y = p.past(f"{name}.past", y, gate.dw.memory)
    y = p.conv(f"{name}.dw", y, gate.dw.weight[..., None], gate.dw.bias, groups=channels)
    y = p.conv(f"{name}.pw", y, gate.pw.weight[..., None], gate.pw.bias)
    y = p.emit("logistic", (y,), f"{name}.gate", (channels, 1))
    return p.emit("mul", (x, y), f"{name}.gated", p.shapes[x])


def _temporal_block(p: Program, name: str, x: str, block: TemporalBlock) -> str:
    y = p.conv(f"{name}.conv1", x, *_folded(block.conv1, block.bn1))
    y = p.activation(f"{name}.act1", y, block.act1)
    y = p.past(f"{name}.past", y, block.conv2.memory)
    weight, bias = _folded(block.conv2, block.bn2)
    y = p.conv(f"{name}.conv2", y, weight, bias, dilation=block.conv2.dilation[0], groups=block.conv2.groups)
    y = p.activation(f"{name}.act2", y, block.act2)
    y = p.conv(f"{name}.conv3", y, *_folded(block.conv3, block.bn3))
    y = p.emit("add", (x, y), f"{name}.sum", p.shapes[x], relu=False)
    return p.activation(f"{name}.act3", y, block.act3)


LOWER = {ConvBlock: _conv_block, GTConvBlock: _gt_block}


def _folded(conv: nn.Module, bn: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Fold BatchNorm into a convolution: return its kernel (O, I / groups, time, frequency) and bias.

    A transposed convolution of stride 1 becomes a plain one.
    """
    weight = conv.weight.detach()
    if isinstance(conv, nn.ConvTranspose2d):
        weight = weight.unflatten(0, (conv.groups, -1)).transpose(1, 2).flatten(0, 1)
        if max(conv.stride) == 1:
            weight = weight.flip(2, 3)
    gain = bn.weight.detach() / torch.sqrt(bn.running_var + bn.eps)
    return weight * gain[:, None, None, None], (conv.bias.detach() - bn.running_mean) * gain + bn.bias.detach()


def _composed(first: Tensor, second: Tensor) -> Tensor:
    """Compose a depthwise kernel (C, 1, 1, K) with a following kernel (O, C, 1, L): (O, C, 1, K + L - 1)."""
    taps, further = first.shape[3], second.shape[3]
    kernel = second.new_zeros(*second.shape[:3], taps + further - 1)
    for tap in range(taps):
        kernel[..., tap : tap + further] += second * first[None, :, 0, :, tap, None]
    return kernel
