"""A .tflite in integers is compared with the simulation, operator by operator.

The whole output can't be compared: one step of difference in front, a rounding that fell the other way, is amplified by
all that follows. So every operator of the simulation is fed with the integers that the file's own operators gave.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from gtcrn.errors import UserError, counted
from gtcrn.quantization.network import Network

if TYPE_CHECKING:  # it needs packages that only those need who write such files
    from gtcrn.export.writers.flatbuffer import Written

TOLERANCE = 1  # steps
FROM_TABLES = {(16, "logistic"): 4, (16, "tanh"): 4}  # steps, by bits and kind: LiteRT interpolates between 512 values
FRAMES = 12  # that are compared


class Agreement(NamedTuple):
    """The agreement of a file with the simulation.

    operators: how many were compared. steps: the largest difference. differing: the share of all values that differ.
    """

    operators: int
    steps: int
    differing: float

    def __str__(self) -> str:
        share = f"{100 * self.differing:.2g} % of their values differ"
        steps = counted(self.steps, "step")
        return f"{self.operators} operators, each at most {steps} from the simulated integers; {share}"


@torch.inference_mode()
def check(network: Network, written: Written, bands: Tensor) -> Agreement:
    """Compare the file with the network it was written from, over the first frames of bands (1, 3, T, bands).

    States are carried from frame to frame as an application does; what operators have before their input must be what
    that was in the frames before. Raises UserError naming the operator that differs by more than is allowed.
    """
    file, program = _File(written), network.program
    high = network.fake_quantize("bands", bands)
    low = network.fake_quantize("bands", (bands - high) * program.rho)
    past: dict[str, Tensor] = {}
    worst, different, count = 0, 0, 0
    for frame in torch.cat([high, low], dim=1).split(1, dim=2)[:FRAMES]:
        file.run(frame)
        for op in program.ops:
            inputs = [file.value(name) for name in op.inputs]
            if op.kind == "past":
                memory = op.options["memory"]
                before = past.get(op.output, torch.zeros_like(inputs[0]).repeat(1, 1, memory, 1))
                expected = torch.cat([before, *inputs], dim=2)
                past[op.output] = expected[:, :, -memory:]
            else:
                expected = network.fake_quantize(op.output, network.run(op, *inputs))
            steps = ((file.value(op.output) - expected) / file.scale(op.output)).round().abs()
            allowed = FROM_TABLES.get((program.bits[op.output], op.kind), TOLERANCE)
            if steps.max() > allowed:
                raise UserError(
                    f"the file's {op.output} ({op.kind}) is {int(steps.max())} steps from what was simulated, of "
                    f"{allowed} allowed: an operator that was written wrongly"
                )
            worst = max(worst, int(steps.max()))
            different, count = different + int((steps > 0).sum()), count + steps.numel()
    return Agreement(len(program.ops), worst, different / count)


class _File:
    """The file in LiteRT's own kernels, which keep every tensor for inspection."""

    def __init__(self, written: Written):
        from ai_edge_litert.interpreter import Interpreter, OpResolverType

        self._interpreter = Interpreter(
            model_content=written.content,
            num_threads=1,
            experimental_preserve_all_tensors=True,
            experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        )
        self._interpreter.allocate_tensors()
        (self._input, *inputs), (_, *outputs) = (
            self._interpreter.get_input_details(),
            self._interpreter.get_output_details(),
        )
        self._states = {
            node["index"]: np.full(node["shape"], node["quantization"][1], node["dtype"]) for node in inputs
        }
        self._next = [node["index"] for node in outputs]
        self._tensors = written.tensors
        self._quantization = {node["index"]: node["quantization"] for node in self._interpreter.get_tensor_details()}

    def run(self, frame: Tensor) -> None:
        """Run the file on a frame, (1, 6, 1, bands)."""
        scale, zero = self._input["quantization"]
        codes = (frame.permute(0, 2, 3, 1).double() / scale).round().numpy() + zero
        for index, value in {self._input["index"]: codes.astype(self._input["dtype"]), **self._states}.items():
            self._interpreter.set_tensor(index, value)
        self._interpreter.invoke()
        self._states = dict(zip(self._states, (self._interpreter.get_tensor(index).copy() for index in self._next)))

    def scale(self, name: str) -> float:
        return self._quantization[self._tensors[name]][0]

    def value(self, name: str) -> Tensor:
        """Return the numbers that a tensor stands for, (1, C, T, F)."""
        scale, zero = self._quantization[self._tensors[name]]
        codes = self._interpreter.get_tensor(self._tensors[name]).astype(np.float64)
        return torch.from_numpy((codes - zero) * scale).float().permute(0, 3, 1, 2)
