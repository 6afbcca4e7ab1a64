"""torch.export programs (.pt2): for PyTorch itself, without the code of this framework."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from gtcrn.export.graph import Graph
from gtcrn.runtime.integrity import METADATA
from gtcrn.runtime.silence import silence


def write(graph: Graph, path: Path, metadata: dict[str, str]) -> None:
    """Write the graph as a program, called as `program.module()(x, *states)`, with its metadata as an extra file."""
    with silence():
        program = torch.export.export(graph, graph.example())
        for node in program.graph.nodes:  # they hold lines of code and paths of this machine
            node.meta.pop("stack_trace", None)
        torch.export.save(program, path, extra_files={METADATA: json.dumps(metadata)})
