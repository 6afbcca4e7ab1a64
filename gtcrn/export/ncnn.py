"""ncnn: a folder with `model.ncnn.param`, `model.ncnn.bin` and `metadata.json`, written by pnnx.

Blobs are named as pnnx names them, in the graph's order: in0 is the input, in1, in2, … the states as `metadata.json`
lists them, out0 the output, out1, out2, … the next states. All are vectors, each the elements of its tensor in order.
"""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from gtcrn.errors import UserError
from gtcrn.export.framing import Stream, framed
from gtcrn.export.graph import Graph
from gtcrn.export.intact import METADATA, read_folder, seal_folder
from gtcrn.export.onnx import silence

PARAM, BIN = "model.ncnn.param", "model.ncnn.bin"


def write(graph: Graph, path: Path, metadata: dict[str, str]) -> None:
    """The graph as a folder of the files above, in 32 bits.

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
    """A graph of vectors, in functions that pnnx has layers of ncnn for."""

    def __init__(self, graph: Graph):
        super().__init__()
        self.step = graph
        for module in list(graph.modules()):
            for name, child in module.named_children():
                if isinstance(child, nn.LayerNorm) and len(child.normalized_shape) > 1:
                    setattr(module, name, _WholeNorm(child))
        self.shapes = [x.shape for x in graph.example()]

    def forward(self, *vectors: Tensor) -> list[Tensor]:
        with _Rewriting():
            outputs = self.step(*(x.reshape(shape) for x, shape in zip(vectors, self.shapes)))
        return [y.flatten() for y in outputs]


class _WholeNorm(nn.Module):
    """A LayerNorm of all elements; ncnn's is of the last dimension's."""

    def __init__(self, norm: nn.LayerNorm):
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps

    def forward(self, x: Tensor) -> Tensor:
        centred = x.flatten() - x.flatten().mean(dim=0, keepdim=True)
        deviation = torch.sqrt((centred * centred).mean(dim=0, keepdim=True) + self.eps)
        return (centred / deviation).reshape(_shape(x)) * self.weight + self.bias


class _Rewriting(TorchFunctionMode):
    def __torch_function__(self, function, types, args=(), kwargs=None):
        return REWRITTEN.get(function, function)(*args, **(kwargs or {}))


def _gru(
    x, hidden, weights, has_biases, layers, dropout, training, bidirectional, batch_first
) -> tuple[Tensor, Tensor]:
    """torch's own for one stream, every step written out."""
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
    """Likewise for one step of one layer."""
    (hidden, cell), (w, u, b, c) = states, weights
    gates = F.linear(torch.cat([x.flatten(), hidden.flatten()]), torch.cat([w, u], dim=1), b + c)
    entered, kept, new, shown = gates.chunk(4)
    next_cell = torch.sigmoid(kept) * cell.flatten() + torch.sigmoid(entered) * torch.tanh(new)
    next_hidden = (torch.sigmoid(shown) * torch.tanh(next_cell)).reshape(_shape(hidden))
    return next_hidden, next_hidden, next_cell.reshape(_shape(cell))


def _shape(x: Tensor) -> list[int]:
    """Constants, which a trace would compute."""
    return [int(size) for size in x.shape]


def _index_select(x: Tensor, dim: int, index: Tensor) -> Tensor:
    """Of a vector's elements, as a product, or a matrix's rows."""
    if x.dim() == 1:
        return F.linear(x, F.one_hot(index, len(x)).to(x.dtype))
    rows = x.flatten().chunk(len(x))
    return torch.cat([rows[number] for number in index.tolist()]).reshape(len(index), -1)


def _item(x: Tensor, index) -> Tensor:
    """x[0] of one element: pnnx would look for more."""
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
    """What pnnx found no ncnn layer for keeps the name it has in PyTorch, with dots or colons."""
    foreign = set(re.findall(r"^\S*(?:\.|::)\S*", param, re.MULTILINE))
    if foreign:
        raise UserError(f"ncnn has no layer for {', '.join(sorted(foreign))} of {system}; use format=onnx_wave")


class Runner(Stream):
    """A stream through a folder of `write`, on one thread in 32 bits.

    Raises UserError if a file is missing or damaged, and without ncnn.
    """

    def __init__(self, path: str | Path):
        path = Path(path)
        missing = [name for name in (PARAM, BIN, METADATA) if not (path / name).is_file()]
        if missing:
            raise UserError(f"{path}: holds no {', '.join(missing)}; a folder of task=export format=ncnn is needed")
        metadata = read_folder(path, (PARAM, BIN))
        net = _load(path)
        try:
            sizes = [math.prod(shape) for _, shape in json.loads(metadata["states"])]
            super().__init__(*framed(_Step(net, sizes), metadata))
        except UserError:
            raise
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path / METADATA}: does not say how the model is fed ({error!r})") from error


class _Step:
    """The network on one hop, (1, hop_length) or (1, F, 1, 2) float32, with its states."""

    def __init__(self, net, sizes: list[int]):
        self._net, self._sizes = net, sizes
        self.reset()

    def reset(self) -> None:
        import ncnn

        self._states = [ncnn.Mat(size) for size in self._sizes]
        for state in self._states:
            state.fill(0.0)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        import ncnn

        vector = x.ravel()
        extractor = self._net.create_extractor()
        # a copy: layers write into memory that is not ncnn's own
        for i, blob in enumerate([ncnn.Mat(vector).clone(), *self._states]):
            extractor.input(f"in{i}", blob)
        failures, outputs = zip(*(extractor.extract(f"out{i}") for i in range(1 + len(self._sizes))))
        if any(failures):
            raise UserError("ncnn can't run this model: a layer failed, or is fed a shape that it does not take")
        y, *self._states = outputs
        return np.array(y).reshape(x.shape)


def _load(path: Path):
    try:
        import ncnn
    except ImportError as error:
        raise UserError(f"{path}: running it needs the package ncnn: pip install -e '.[ncnn]'") from error
    net = ncnn.Net()
    options = net.opt
    options.num_threads = 1
    options.use_fp16_packed = options.use_fp16_storage = options.use_fp16_arithmetic = False
    options.use_bf16_storage = options.use_vulkan_compute = False
    if net.load_param(str(path / PARAM)) or net.load_model(str(path / BIN)):
        raise UserError(f"{path}: damaged, or of another version of ncnn; write it again by task=export format=ncnn")
    return net
