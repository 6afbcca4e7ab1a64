"""torch.export programs (.pt2): for PyTorch itself, without the code of this framework."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from gtcrn.errors import UserError
from gtcrn.export.framing import Stream, framed
from gtcrn.export.graph import Graph
from gtcrn.export.onnx import silence

METADATA = "metadata.json"  # among a program's extra files


def write(graph: Graph, path: Path, metadata: dict[str, str]) -> None:
    """The graph as a program, called as `program.module()(x, *states)`, with its metadata as an extra file."""
    with silence():
        program = torch.export.export(graph, graph.example())
        for node in program.graph.nodes:  # lines of code and paths of this machine
            node.meta.pop("stack_trace", None)
        torch.export.save(program, path, extra_files={METADATA: json.dumps(metadata)})


class Runner(Stream):
    """A stream through a .pt2 file.

    Raises UserError if the file is missing, damaged or was not written by task=export.
    """

    def __init__(self, path: str | Path):
        module, text = _load(Path(path))
        try:
            metadata = json.loads(text)
            shapes = [shape for _, shape in json.loads(metadata["states"])]
            super().__init__(*framed(_Step(module, shapes), metadata))
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path}: its {METADATA} does not say how it is fed ({error!r})") from error


class _Step:
    """The program on one hop, (1, hop_length) or (1, F, 1, 2) float32, with its states."""

    def __init__(self, module: torch.nn.Module, shapes: list[list[int]]):
        self._module, self._shapes = module, shapes
        self.reset()

    def reset(self) -> None:
        self._states = [torch.zeros(shape) for shape in self._shapes]

    @torch.inference_mode()
    def __call__(self, x: np.ndarray) -> np.ndarray:
        # a copy: what is kept must not change with the caller's buffer
        y, *self._states = self._module(torch.tensor(x), *self._states)
        return y.numpy()


def _load(path: Path) -> tuple[torch.nn.Module, str]:
    """The program and the text of its metadata."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; a .pt2 file of task=export is needed")
    extra = {METADATA: ""}
    try:
        with silence():
            program = torch.export.load(path, extra_files=extra)
    except Exception as error:  # of many kinds: no archive, a part missing, an operator of another version
        raise UserError(f"{path}: damaged, or no torch.export program: {str(error).partition(chr(10))[0]}") from error
    if not extra[METADATA]:
        raise UserError(f"{path}: holds no {METADATA}; only programs of task=export say how they are fed")
    return program.module(), extra[METADATA]
