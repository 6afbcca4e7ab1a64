"""ncnn models, written by pnnx: the folder that `gtcrn.runtime.ncnn` describes and runs."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gtcrn.errors import UserError
from gtcrn.export.graph import Graph
from gtcrn.export.writers.rewriting import Rewriting
from gtcrn.runtime.integrity import seal_folder
from gtcrn.runtime.ncnn import BIN, PARAM
from gtcrn.runtime.silence import silence


def write(graph: Graph, path: Path, metadata: dict[str, str]) -> None:
    """Write the graph as a folder of the files that `gtcrn.runtime.ncnn` describes, in 32 bits.

    Raises UserError without pnnx, or if the graph holds an operator that ncnn has no layer for.
    """
    try:
        import pnnx
    except ImportError as error:
        raise UserError(f"{path.name}: writing it needs pnnx: pip install -e '.[ncnn]'") from error
    example = [x.flatten() for x in graph.example()]
    shapes = ",".join(f"{list(x.shape)}f32".replace(" ", "") for x in example)
    with tempfile.TemporaryDirectory() as folder:  # pnnx leaves eight files
        with silence():
            torch.jit.trace(_Flat(graph), example, check_trace=False).save(f"{folder}/model.pt")
        command = [pnnx.EXEC_PATH, "model.pt", f"inputshape={shapes}", "fp16=0"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        if done.returncode or not Path(folder, PARAM).is_file():
            raise UserError(f"{path.name}: pnnx could not convert {metadata['system']}; use format=onnx_wave")
        _check(Path(folder, PARAM).read_text(), metadata["system"])
        path.mkdir()
        for name in (PARAM, BIN):
            shutil.move(Path(folder, name), path / name)
    seal_folder(path, metadata, (PARAM, BIN))


class _Flat(nn.Module):
    """A graph of vectors, in functions for which pnnx has layers of ncnn."""

    def __init__(self, graph: Graph):
        super().__init__()
        self.step = graph
        for module in list(graph.modules()):
            for name, child in module.named_children():
                if isinstance(child, nn.LayerNorm) and len(child.normalized_shape) > 1:
                    setattr(module, name, _WholeNorm(child))
        self.shapes = [x.shape for x in graph.example()]

    def forward(self, *vectors: Tensor) -> list[Tensor]:
        with Rewriting(REWRITTEN):
            outputs = self.step(*(x.reshape(shape) for x, shape in zip(vectors, self.shapes)))
        return [y.flatten() for y in outputs]


class _WholeNorm(nn.Module):
    """A LayerNorm over all elements; that of ncnn is over the last dimension."""

    def __init__(self, norm: nn.LayerNorm):
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps

    def forward(self, x: Tensor) -> Tensor:
        centred = x.flatten() - x.flatten().mean(dim=0, keepdim=True)
        deviation = torch.sqrt((centred * centred).mean(dim=0, keepdim=True) + self.eps)
        return (centred / deviation).reshape(_shape(x)) * self.weight + self.bias


def _gru(
    x, hidden, weights, has_biases, layers, dropout, training, bidirectional, batch_first
) -> tuple[Tensor, Tensor]:
    """Compute torch.gru for one stream, with every step written out."""
    first, second, _ = _shape(x)
    steps, hiddens = list(x.flatten().chunk(first * second)), []
    for layer, state in enumerate(hidden.flatten().chunk(layers)):
        w, u, b, c = weights[4 * layer : 4 * layer + 4]
        for number, step in enumerate(steps):
            (r, z, n), (r_past, z_past, n_past) = F.linear(step, w, b).chunk(3), F.linear(state, u, c).chunk(3)
            new = torch.tanh(n + torch.sigmoid(r + r_past) * n_past)
            steps[number] = state = new + torch.sigmoid(z + z_past) * (state - new)
        hiddens.append(state)
    return torch.cat(steps).reshape(first, second, -1), torch.cat(hiddens).reshape(_shape(hidden))


def _lstm(x, states, weights, has_biases, layers, *_) -> tuple[Tensor, Tensor, Tensor]:
    """Compute torch.lstm for one step of one layer."""
    (hidden, cell), (w, u, b, c) = states, weights
    gates = F.linear(torch.cat([x.flatten(), hidden.flatten()]), torch.cat([w, u], dim=1), b + c)
    entered, kept, new, shown = gates.chunk(4)
    next_cell = torch.sigmoid(kept) * cell.flatten() + torch.sigmoid(entered) * torch.tanh(new)
    next_hidden = (torch.sigmoid(shown) * torch.tanh(next_cell)).reshape(_shape(hidden))
    return next_hidden, next_hidden, next_cell.reshape(_shape(cell))


def _shape(x: Tensor) -> list[int]:
    """Return the sizes as constants, which a trace would otherwise compute."""
    return [int(size) for size in x.shape]


def _index_select(x: Tensor, dim: int, index: Tensor) -> Tensor:
    """Select elements of a vector, as a product, or rows of a matrix."""
    if x.dim() == 1:
        return F.linear(x, F.one_hot(index, len(x)).to(x.dtype))
    rows = x.flatten().chunk(len(x))
    return torch.cat([rows[number] for number in index.tolist()]).reshape(len(index), -1)


def _item(x: Tensor, index) -> Tensor:
    """Return x[index]; of a tensor with one element without indexing, which pnnx converts wrongly there."""
    if type(index) is int and len(x) == 1:
        return x.reshape(_shape(x)[1:])
    return x[index]


def _reshape(x: Tensor, *shape) -> Tensor:
    return x.flatten().reshape(*shape)


def _flatten(x: Tensor, *dims: int) -> Tensor:
    return x.flatten().reshape(_shape(x.flatten(*dims)))


REWRITTEN = {
    Tensor.reshape: _reshape,
    Tensor.flatten: _flatten,
    torch.gru: _gru,
    torch.lstm: _lstm,
    Tensor.index_select: _index_select,
    Tensor.__getitem__: _item,
}


def _check(param: str, system: str) -> None:
    """Raise UserError for a layer that keeps its PyTorch name, with dots or colons: pnnx found none of ncnn for it."""
    foreign = set(re.findall(r"^\S*(?:\.|::)\S*", param, re.MULTILINE))
    if foreign:
        raise UserError(f"ncnn has no layer for {', '.join(sorted(foreign))} of {system}; use format=onnx_wave")
