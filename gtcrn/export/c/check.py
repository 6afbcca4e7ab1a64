"""A C file in integers is compared with the simulation: the codes of every mask and of the states, to the bit."""

from __future__ import annotations

import copy
import ctypes
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from gtcrn.errors import UserError
from gtcrn.quantization.network import Network
from gtcrn.runtime.c_code import CFile

ENOUGH = 0.75  # share of the frames that have to be equal: a tie is forgotten after about a second


class Codes(NamedTuple):
    """The codes of a stream, as C has them in memory. input: (T, bands · 6). masks: (T, bands · 2). states: (N,) each,
    after the last frame, by the names of the operators that hold them."""

    input: np.ndarray
    masks: np.ndarray
    states: dict[str, np.ndarray]


class Equality(NamedTuple):
    """The equality of a C file with the simulation.

    frames: how many were compared. equal: how many of their masks have the same codes. states: whether the last frame's
    states have.
    """

    frames: int
    equal: int
    states: bool

    def __str__(self) -> str:
        if self.equal == self.frames and self.states:
            return f"mask codes of {self.frames} frames and the states after them equal the simulated ones to the bit"
        return f"mask codes of {self.equal} of {self.frames} frames equal the simulated ones to the bit"


@torch.inference_mode()
def simulated(network: Network, bands: Tensor) -> Codes:
    """Simulate a network over bands (1, 3, T, bands) in double precision, which decides ties as integers do."""
    network, bands = copy.deepcopy(network).double(), bands.double()
    program = network.program

    def codes(name: str, x: Tensor) -> np.ndarray:
        """Return (T, F · C) of (1, C, T, F)."""
        scale, zero = network.scale_zero(program.scale_of[name])
        return ((x / scale).round() + zero.round())[0].permute(1, 2, 0).flatten(1).to(torch.int8).numpy()

    high = network.fake_quantize("bands", bands)
    low = network.fake_quantize("bands", (bands - high) * program.rho)
    values = {"bands": torch.cat([high, low], dim=1)}
    states = {}
    for op in program.ops:
        inputs = [values[name] for name in op.inputs]
        values[op.output] = network.fake_quantize(op.output, network.run(op, *inputs))
        if op.kind == "past":
            memory = op.options["memory"]
            states[op.output] = codes(op.output, values[op.output])[-memory:].ravel()
    return Codes(codes("bands", values["bands"]), codes(program.output, values[program.output]), states)


def computed(code: CFile, network: Network, input: np.ndarray) -> Codes:
    """Run the network of a C file over codes (T, bands · 6)."""
    program, state, masks = network.program, code.state(), []
    size = np.prod(program.shapes[program.output])
    for frame in np.ascontiguousarray(input, np.int8):
        mask = code.library.run_network(state, ctypes.c_void_p(frame.ctypes.data))
        masks.append(np.frombuffer(ctypes.string_at(mask, size), np.int8))
    shapes = program.states()
    oldest = ctypes.string_at(code.library.oldest_of(state), 2 * len(shapes))
    memory = ctypes.string_at(code.library.memory_of(state), sum(map(np.prod, shapes.values())))
    states, begin = {}, 0
    for (name, (frames, *shape)), first in zip(shapes.items(), np.frombuffer(oldest, np.uint16)):
        end = begin + frames * np.prod(shape)
        ring = np.frombuffer(memory[begin:end], np.int8).reshape(frames, -1)
        states[name], begin = np.roll(ring, -int(first), axis=0).ravel(), end
    return Codes(input, np.array(masks), states)


def check(network: Network, path: Path, bands: Tensor) -> Equality:
    """Compare the network of a folder with the simulation over bands (1, 3, T, bands), with states carried.

    A factor of 31 bits may decide a tie otherwise than the simulation, once in some hundred million values, which is
    heard of until the network has forgotten it. So raises UserError only if less than `ENOUGH` of the frames are equal.
    """
    expected = simulated(network, bands)
    ours = computed(CFile(path), network, expected.input)
    equal = int((ours.masks == expected.masks).all(axis=1).sum())
    states = all((ours.states[name] == state).all() for name, state in expected.states.items())
    equality = Equality(len(ours.masks), equal, states)
    if equal < ENOUGH * len(ours.masks):
        raise UserError(f"{equality}: an operator that was written wrongly")
    return equality
