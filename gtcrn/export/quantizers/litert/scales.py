"""Scales and zero points of tensors."""

from __future__ import annotations

import math

import numpy as np

from gtcrn.errors import UserError
from gtcrn.export.quantizers.litert.observation import Seen
from gtcrn.export.quantizers.litert.tables import FLOAT, GATES, LAYERS, MOVES, File
from gtcrn.export.writers.tflite_schema import TYPES
from gtcrn.quantization.codes import FIXED, HEADROOM


class Scales:
    """Scales and zero points of tensors in integers, each called (number, bits) after the float tensor it stands for.

    Those that only lie in memory in different ways share a scale, as do a state and the next one, which so is not
    rounded again, and all inputs of layers with one weight, which so is written once.
    """

    def __init__(self, file: File, bits: dict[int, int], seen: dict[int, Seen]):
        self.file, self.bits, self.seen = file, bits, seen
        self._groups, self._heeded = self._tied(), self._limits()
        self._fixed = {
            (int(file.operators[k].outputs[0]), b): FIXED[b][file.kinds[k].lower()]
            for k, b in bits.items()
            if file.kinds[k].lower() in FIXED[b]
        }

    def _tied(self) -> dict[tuple[int, int], set[tuple[int, int]]]:
        file = self.file
        ties = [[(i, b) for i in pair] for pair in file.states.items() for b in TYPES]
        by_weight: dict[tuple[int, int], list] = {}
        for k, b in self.bits.items():
            op = file.operators[k]
            if file.kinds[k] in MOVES:
                ties.append([(int(i), b) for i in (*op.inputs, *op.outputs) if file.tensors[i].type == FLOAT])
            elif file.kinds[k] in LAYERS:
                by_weight.setdefault((int(op.inputs[1]), b), []).append((int(op.inputs[0]), b))
        groups: dict = {}
        for tied in (*ties, *by_weight.values()):
            group = set().union(*(groups.get(node, {node}) for node in tied))
            groups.update(dict.fromkeys(group, group))
        return groups

    def _limits(self) -> dict[int, float]:
        """Return how far from zero tensors make a difference: at bits · ln 2 a sigmoid is a step from its end."""
        file, limits = self.file, dict.fromkeys(self.file.ends(), math.inf)
        for number in reversed(range(len(file.operators))):
            kind, op, limit = file.kinds[number], file.operators[number], math.inf
            if kind in GATES:
                limit = self.bits.get(number, 16) * math.log(2)
            elif kind in MOVES | {"ADD"}:
                limit = limits.get(int(op.outputs[0]), math.inf)
            for i in file.floats(number):
                others = [max(map(abs, self._ends(int(j)))) for j in op.inputs if j != i] if kind == "ADD" else []
                limits[i] = max(limits.get(i, 0.0), limit + sum(others))
        return limits

    def scale_zero(self, i: int, bits: int) -> tuple[np.float32, int]:
        group = self._groups.get((i, bits), {(i, bits)})
        fixed = {self._fixed[node] for node in group & self._fixed.keys()}
        if fixed:
            return self._of_gate(group, fixed)
        lows, highs = zip(*(self._range(i, bits) for i, _ in group))
        low, high = min(lows), max(highs)
        if bits == 16:
            return np.float32(max(-low, high) / 32767), 0
        scale = np.float32((high - low) / 255)
        return scale, round(-128 - low / scale)

    def _of_gate(self, group: set[tuple[int, int]], fixed: set[tuple[float, int]]) -> tuple[np.float32, int]:
        lows, highs = zip(*(self._ends(i) for i, _ in group))
        if len(fixed) > 1 or min(lows) < -1.01 or max(highs) > 1.01:
            raise UserError(
                "gates are joined with values of another range, for which there are no kernels; use dynamic"
            )
        ((scale, zero),) = fixed
        return np.float32(scale), zero

    def _ends(self, i: int) -> tuple[float, float]:
        constant = self.file.constant(i)
        return self.seen[i][:2] if constant is None else (float(constant.min()), float(constant.max()))

    def _range(self, i: int, bits: int) -> tuple[float, float]:
        (low, high), limit = self._ends(i), self._heeded.get(i, math.inf)
        return max(min(HEADROOM[bits] * low, 0.0), -limit), min(max(HEADROOM[bits] * high, 1e-6), limit)

    def snr(self, i: int) -> float:
        """Return the SNR in dB of a tensor rounded to 8 bits."""
        scale, _ = self.scale_zero(i, 8)
        return 10 * math.log10(max(self.seen[i].power, 1e-20) / (float(scale) ** 2 / 12))
