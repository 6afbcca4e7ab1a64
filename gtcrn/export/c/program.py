"""The operators of a program in integers as calls of the kernels in C, with their tables, buffers and states.

Operators of which a single other one reads are computed with that or with the one before: activations and squares are
tables of all codes, which the simulation itself computes; the past of a convolution is its ring of frames; slices and
unfolded channels are places in other buffers.
"""

from __future__ import annotations

import copy
import math
from math import frexp, prod
from typing import NamedTuple

import torch
from torch import Tensor

from gtcrn.errors import UserError
from gtcrn.export.device.float_part import rows
from gtcrn.quantization.codes import CODES
from gtcrn.quantization.network import Network
from gtcrn.quantization.program import Op

LOW, HIGH = CODES[8]
ACTIVATIONS = ("leaky", "tanh", "logistic")
INPUT, MASK = "input", "mask"  # buffers of the float part


class Place(NamedTuple):
    """The place of a tensor: so many codes into a buffer, a band's channels `step` codes after those before."""

    buffer: str
    offset: int
    step: int


class Call(NamedTuple):
    """A call of a kernel.

    arguments: words of C, and places as "offset:buffer", since where buffers begin is not known yet. reads: tensors.
    writes: a buffer.
    """

    comment: str
    kernel: str
    arguments: tuple[str | Place, ...]
    reads: tuple[str, ...]
    writes: str


class Program:
    """A network in C.

    constants, calls, first_states: lines of C. codes, wide: elements of the buffers between the layers and of the input
    of a convolution. memories: bytes of the rings by the names of the `past` operators, in order.

    Raises UserError for sums that do not fit into 32 bits.
    """

    def __init__(self, network: Network):
        self.network = copy.deepcopy(network).double()
        self.program = self.network.program
        self.memories = {name: prod(shape) for name, shape in self.program.states().items()}
        self.wide = 0
        self._constants: list[str] = []
        self._tables: set[str] = set()
        self._calls: list[Call] = []
        self._places: dict[str, Place] = {"bands": Place(INPUT, 0, self.program.shapes["bands"][0])}
        for op in self.program.ops:
            getattr(self, f"_{op.kind}", self._nothing)(op)
        offsets, self.codes = self._buffers()
        self.constants = "\n".join(self._constants)
        self.calls = "\n\n".join(self._line(call, offsets) for call in self._calls)
        self.first_states = "\n".join(
            f"    memset(state->memory + {begin}, {self.scale_zero(name)[1]}, {size}); /* {name}: "
            f"{' x '.join(map(str, self.program.states()[name]))} */"
            for (name, size), begin in zip(self.memories.items(), self._begins())
        )

    def macs(self) -> int:
        return sum(self.program.macs().values())

    @property
    def output(self) -> str:
        """Return the tensor that holds the mask; of its last codes there may be more than the mask has."""
        return self._root(self.program.output)

    # what is known of tensors

    def scale_zero(self, name: str) -> tuple[float, int]:
        """Return the scale and zero point of a tensor."""
        scale, zero = self.network.scale_zero(self.program.scale_of[name])
        return scale.item(), round(zero.item())

    def _root(self, name: str) -> str:
        """Return the tensor in whose buffer another one lies."""
        op = self.program.producer(name)
        return self._root(op.inputs[0]) if op and op.kind in ("slice", "unfold", "past", "requantize") else name

    def _place(self, name: str) -> Place:
        """Return where a tensor lies; its buffer is a name, but for `INPUT` and `MASK`."""
        if name in self._places:
            return self._places[name]
        op, (channels, _) = self.program.producer(name), self.program.shapes[name]
        if op.kind in ("past", "requantize"):
            return self._place(op.inputs[0])
        if op.kind == "slice":
            buffer, offset, step = self._place(op.inputs[0])
            return Place(buffer, offset + op.options["band"] * step + op.options["channel"], step)
        if op.kind == "unfold":
            return self._place(op.inputs[0])._replace(step=channels)
        buffer = MASK if self._root(self.program.output) == name else name
        self._places[name] = Place(buffer, 0, channels)
        return self._places[name]

    def _reader(self, name: str) -> Op | None:
        """Return the operator that alone reads a tensor."""
        readers = self.program.readers(name)
        return readers[0] if len(readers) == 1 and name != self.program.output else None

    def _stored(self, name: str) -> tuple[str, Op | None, Place]:
        """Return what an operator's output is stored as, the activation before that, and the place."""
        reader, offset = self._reader(name), 0
        if reader and reader.kind == "join":
            before = reader.inputs[: reader.inputs.index(name)]
            offset = sum(prod(self.program.shapes[part]) for part in before)
            name, reader = reader.output, self._reader(reader.output)
        activation = reader if reader and reader.kind in ACTIVATIONS else None
        name = activation.output if activation else name
        place = self._place(name)
        return name, activation, place._replace(offset=place.offset + offset)

    # constants

    def _table(self, op: Op) -> str:
        """Write an operator of one tensor as a table of all codes, if that is not done, and return its name."""
        name = f"table_{identifier(op.output)}"
        if name in self._tables:
            return name
        self._tables.add(name)
        (before, low), (after, zero) = map(self.scale_zero, (op.inputs[0], op.output))
        codes = torch.arange(LOW, HIGH + 1, dtype=torch.float64)
        x = (before * (codes - low)).reshape(1, 1, 1, -1)
        with torch.no_grad():
            y = self.network.fake_quantize(op.output, self.network.run(op, x))
        values = (y.flatten() / after).round().long() + zero
        self._constants.append(f"static const int8_t {name}[256] = {{\n{rows(_words(values), 25)}\n}};")
        return name

    def _activation(self, op: Op | None) -> str:
        return self._table(op) if op else "NULL"

    def _low(self, op: Op) -> int:
        return self.scale_zero(op.output)[1] if op.options["relu"] else LOW

    def _described(self, name: str) -> str:
        channels, freqs = self.program.shapes[name]
        scale, zero = self.scale_zero(name)
        return f"{name} ({freqs}, {channels}), scale {scale:.6g}, zero {zero}"

    # operators, each of which makes constants and a call

    def _nothing(self, op: Op) -> None:
        """Do nothing for an operator that is part of another call."""

    def _call(
        self, op: Op, kernel: str, *arguments: str | Place, reads: tuple[str, ...], stored: tuple | None = None
    ) -> None:
        name, activation, place = stored or self._stored(op.output)
        follows = f", {activation.kind}" if activation else ", relu" if op.options.get("relu") else ""
        comment = f"{op.output}: {op.kind}{follows} of {', '.join(reads)} -> {self._described(name)}"
        self._calls.append(Call(comment, kernel, (*arguments, place), reads, place.buffer))

    def _conv(self, op: Op) -> None:
        o, network, name = op.options, self.network, identifier(op.output)
        before = self.program.producer(op.inputs[0])
        past = before.output if before and before.kind == "past" else None
        source = before.inputs[0] if past else op.inputs[0]
        (channels, bands), (out, out_bands) = self.program.shapes[source], self.program.shapes[op.output]
        weight, scales = network.weight(op.output).detach(), network.weight_scale(op.output)
        codes = (weight / scales[:, None, None, None]).round().long()  # (O, I / groups, frames, taps)
        _, inner, frames, taps = codes.shape
        depthwise = o["groups"] > 1
        offsets = [(k * frames + t) * channels for t in range(frames) for k in range(taps)]
        if depthwise:
            ordered, offsets = _filled(codes.flatten(1), 3), offsets + [0] * (-len(offsets) % 3)
            words = f"static const uint16_t offsets_{name}[] = {{{', '.join(map(str, offsets))}}};\n"
        else:
            ordered = _filled(codes.permute(0, 3, 2, 1).flatten(1), 4).unflatten(1, (-1, 4))[..., [0, 2, 1, 3]]
            words = ""
        (x_scale, x_zero), (y_scale, y_zero) = map(self.scale_zero, (source, op.output))
        ratios = x_scale * scales / y_scale
        unit = _unit(ratios.max().item())
        largest = codes.abs().sum(dim=(1, 2, 3)).max().item() * 255 * unit
        if largest >= 2**31:
            raise UserError(f"{op.output}: sums of {frames * taps * inner} products do not fit into 32 bits")
        biases = network.bias(op.output).detach() / y_scale + y_zero + 0.5
        rescalings = [_rescaling([ratio], bias, unit) for ratio, bias in zip(ratios.tolist(), biases.tolist())]
        stored = self._stored(op.output)
        _, activation, _ = stored
        table = self._activation(activation)
        comment = f"/* {op.output}: ({bands}, {channels}) -> ({out_bands}, {out}), weights {tuple(codes.shape)}"
        self._constants.append(
            f"{comment}{', depthwise' if depthwise else ''} */\n{words}"
            f"static const int8_t weights_{name}[] = {{\n{rows(_words(ordered.flatten()), 25)}\n}};\n"
            f"static const rescaling rescalings_{name}[] = {{\n"
            + ",\n".join(f"    {{{factor}, {shift}, INT64_C({offset})}}" for (factor,), shift, offset in rescalings)
            + f"\n}};\nstatic const layer {name} = {{\n"
            f"    weights_{name}, {f'offsets_{name}' if depthwise else 'NULL'}, rescalings_{name}, {table}, {unit},\n"
            f"    {bands}, {channels}, {self._place(source).step}, {frames}, {o['dilation']}, {taps}, {o['stride']}, "
            f"{o['pad'][0]}, {o['pad'][1]},\n    {out_bands}, {out}, {len(offsets)}, {x_zero}, {self._low(op)}}};"
        )
        size = (sum(o["pad"]) + bands) * frames * channels
        self.wide = max(self.wide, size + 3)  # up to three zeros of the weights lie beyond
        ring = "NULL, NULL"
        if past:
            number = list(self.memories).index(past)
            ring = f"state->memory + {self._begins()[number]}, state->at + {number}"
        self._call(op, "convolve", f"&{name}", self._place(source), ring, "state->wide", reads=(source,), stored=stored)

    def _add(self, op: Op) -> None:
        stored = self._stored(op.output)
        scaled, zeros = zip(*map(self.scale_zero, op.inputs))
        y_scale, y_zero = self.scale_zero(op.output)
        ratios = [scale / y_scale for scale in scaled]
        offset = y_zero + 0.5 - sum(ratio * zero for ratio, zero in zip(ratios, zeros))
        self._pair(op, ratios, offset, zeros, stored)
        count = prod(self.program.shapes[op.output])
        places = map(self._place, op.inputs)
        self._call(op, "add", f"&{identifier(op.output)}", *places, str(count), reads=op.inputs, stored=stored)

    def _mul(self, op: Op) -> None:
        stored = self._stored(op.output)
        (x_scale, x_zero), (gate_scale, gate_zero) = map(self.scale_zero, op.inputs)
        y_scale, y_zero = self.scale_zero(op.output)
        self._pair(op, [x_scale * gate_scale / y_scale], y_zero + 0.5, (x_zero, gate_zero), stored)
        channels, freqs = self.program.shapes[op.output]
        arguments = *map(self._place, op.inputs), str(freqs), str(channels)
        self._call(op, "multiply", f"&{identifier(op.output)}", *arguments, reads=op.inputs, stored=stored)

    def _pair(self, op: Op, ratios: list[float], offset: float, zeros: tuple[int, int], stored: tuple) -> None:
        unit = _unit(max(ratios))
        factors, shift, offset = _rescaling(ratios, offset, unit)
        factor, other = factors if len(factors) == 2 else (*factors, 0)
        low = self._low(op) if "relu" in op.options else LOW
        table = self._activation(stored[1])
        self._constants.append(
            f"static const pair {identifier(op.output)} = {{{table}, {unit}, {factor}, {other}, {shift}, "
            f"INT64_C({offset}), {zeros[0]}, {zeros[1]}, {low}}};"
        )

    def _mean(self, op: Op) -> None:
        square = self.program.producer(op.inputs[0])
        (before, zero), (after, out_zero) = map(self.scale_zero, (square.output, op.output))
        channels, freqs = self.program.shapes[square.output]
        mantissa, exponent = frexp(before / after / freqs)  # as `gtcrn.quantization.rounding.rescaled` has it
        name = identifier(op.output)
        self._constants.append(
            f"static const mean_of {name} = {{{self._table(square)}, INT64_C({round(mantissa * 2**31)}), "
            f"{2 ** max(exponent, 0)}, {max(-exponent, 0)}, {freqs}, {channels}, {zero}, {out_zero}}};"
        )
        self._call(op, "mean", f"&{name}", self._place(square.inputs[0]), reads=square.inputs)

    def _interleave(self, op: Op) -> None:
        x, passing = op.inputs
        requantize = self.program.producer(passing)
        channels, freqs = self.program.shapes[op.output]
        arguments = str(self._place(passing).step), self._table(requantize), str(freqs), str(channels // 2)
        reads = x, requantize.inputs[0]
        self._call(op, "interleave", *map(self._place, reads), *arguments, reads=reads)

    # memory

    def _begins(self) -> list[int]:
        sizes = list(self.memories.values())
        return [sum(sizes[:number]) for number in range(len(sizes))]

    def _buffers(self) -> tuple[dict[str, int], int]:
        """Return where each buffer begins, so that those that are needed at one time do not overlap, and their size."""
        last = {self._place(name).buffer: i for i, call in enumerate(self._calls) for name in call.reads}
        first: dict[str, int] = {}
        for i, call in enumerate(self._calls):
            first.setdefault(call.writes, i)
        lasting = {name: (first[name], last[name]) for name in first if name != MASK}
        offsets: dict[str, int] = {}
        ends: dict[str, int] = {}
        for name, (begin, end) in sorted(lasting.items(), key=lambda item: (-self._size(item[0]), item[0])):
            taken = [
                (offsets[other], ends[other])
                for other in offsets
                if lasting[other][0] <= end and begin <= lasting[other][1]
            ]
            offset = 0
            for low, high in sorted(taken):
                if offset + self._size(name) <= low:
                    break
                offset = max(offset, high)
            offsets[name], ends[name] = offset, offset + self._size(name)
        return offsets, max(ends.values())

    def _size(self, name: str) -> int:
        return -(-prod(self.program.shapes[name]) // 4) * 4

    def _line(self, call: Call, offsets: dict[str, int]) -> str:
        words = []
        for word in call.arguments:
            if isinstance(word, Place):
                where = f"state->{word.buffer}" if word.buffer in (INPUT, MASK) else "codes"
                offset = word.offset + offsets.get(word.buffer, 0)
                word = f"{where} + {offset}" if offset else where
            words.append(word)
        return f"    /* {call.comment} */\n    {call.kernel}({', '.join(words)});"


def identifier(name: str) -> str:
    """Return a tensor's name as C takes it."""
    return name.replace(".", "_")


def _filled(codes: Tensor, multiple: int) -> Tensor:
    """Fill the last axis up with zeros to a multiple."""
    return torch.nn.functional.pad(codes, (0, -codes.shape[-1] % multiple))


def _words(values: Tensor) -> list[str]:
    return [str(value) for value in values.tolist()]


def _unit(ratio: float) -> int:
    """Return the power of two by which a ratio below one half becomes one."""
    return 2 ** max(frexp(ratio)[1] + 1, 0)


def _rescaling(ratios: list[float], offset: float, unit: int) -> tuple[list[int], int, int]:
    """Return ratios to be multiplied by `unit` as factors of 31 bits, the shift beyond 32, and the offset there."""
    shift = min(-1 - frexp(max(ratios) / unit)[1], 31)
    steps = 2.0 ** (32 + shift)
    factors = [min(round(ratio / unit * steps), 2**31 - 1) for ratio in ratios]
    return factors, shift, math.floor(offset * steps)
