"""LiteRT files (.tflite), in 32 bits."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor, nn

from gtcrn.errors import UserError
from gtcrn.export.graph import Graph
from gtcrn.export.writers.rewriting import Rewriting
from gtcrn.runtime.integrity import MARK, read_parts, write_parts
from gtcrn.runtime.silence import silence


def write(graph: Graph, path: Path, metadata: dict[str, str]) -> None:
    """Write the graph as a file whose inputs and outputs have the graph's order and names, in the signature too.

    Raises UserError without litert-torch, or if that can't convert the graph.
    """
    with silence(), _silent_stderr():
        os.environ["LITERT_TORCH_SHOW_PROGRESS"] = "n"
        try:
            import litert_torch
        except ImportError as error:
            raise UserError(f"{path.name}: writing it needs litert-torch: pip install -e '.[litert]'") from error
        try:
            content = litert_torch.convert(_Convertible(graph), graph.example()).model_content()
        except Exception as error:  # it raises what its parts raise
            reason = str(error).partition("\n")[0]
            raise UserError(f"{path.name}: can't be converted for LiteRT ({reason}); use format=onnx") from error
    write_parts(path, _named(content, graph), metadata, {})


def write_metadata(path: Path, metadata: dict[str, str]) -> None:
    """Replace the metadata of a file."""
    write_parts(path, read_parts(path).content, metadata, {})


class _Convertible(nn.Module):
    """A graph in forms that litert-torch 0.10 converts rightly, see `REWRITTEN`."""

    def __init__(self, graph: Graph):
        super().__init__()
        self.step = graph
        self.eval()
        for constant in (*graph.parameters(), *graph.buffers()):
            # litert-torch takes constants for one whose temporary copies have the same address
            constant.data = constant.contiguous()

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        with Rewriting(REWRITTEN):
            return self.step(*inputs)


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute a product with four dimensions as a pointwise convolution, since it often can't be converted itself."""
    if x.dim() != 4:
        return F.linear(x, weight, bias)
    return F.conv2d(x.transpose(1, 3), weight[:, :, None, None], bias).transpose(1, 3)


def _conv_transpose1d(x: Tensor, weight: Tensor, bias: Tensor, stride: tuple[int], padding: tuple[int], *_) -> Tensor:
    """Compute a plain convolution that gives the `stride` samples after one another as channels.

    It is causal, its padding whole strides: what the past begins is cut off.
    """
    channels, frames = weight.shape[1], padding[0] // stride[0] + 1
    weight = F.pad(weight, (0, frames * stride[0] - weight.shape[2]))
    weight = weight.unflatten(2, (frames, stride[0])).flip(2).permute(1, 3, 0, 2)  # (C', stride, C, frames)
    y = F.conv1d(x, weight.flatten(0, 1), bias.repeat_interleave(stride[0]))
    return y.unflatten(1, (channels, stride[0])).transpose(2, 3).flatten(2)


REWRITTEN = {F.linear: _linear, F.conv_transpose1d: _conv_transpose1d}


@contextmanager
def _silent_stderr() -> Iterator[None]:
    """Discard what libraries in C++ write to stderr past Python."""
    stderr = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)


def _named(content: bytes, graph: Graph) -> bytes:
    """Return the file with the graph's names instead of args_0, args_1, … and output_0, output_1, …"""
    from ai_edge_litert.schema_py_generated import ModelT

    from gtcrn.export.writers.tflite_schema import packed

    model = ModelT.InitFromPackedBuf(content)
    (signature,), (subgraph,) = model.signatureDefs, model.subgraphs
    subgraph.inputs = _rename(signature.inputs, subgraph.tensors, graph.input_names)
    subgraph.outputs = _rename(signature.outputs, subgraph.tensors, graph.output_names)
    model.description = MARK
    return packed(model)


def _rename(signature: list, tensors: list, names: list[str]) -> list[int]:
    """Name one side of a signature and its tensors, and return the tensors' numbers in the order of the names."""
    order = sorted(signature, key=lambda entry: int(entry.name.rpartition(b"_")[2]))
    for entry, name in zip(order, names, strict=True):
        entry.name = tensors[entry.tensorIndex].name = name
    return [entry.tensorIndex for entry in order]
