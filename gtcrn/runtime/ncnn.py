"""ncnn models as streams: a folder with `model.ncnn.param`, `model.ncnn.bin` and `metadata.json`.

Blobs are named as pnnx names them, in the graph's order: in0 is the input, in1, in2, … the states as `metadata.json`
lists them, out0 the output, out1, out2, … the next states. All are vectors of their tensor's elements in order.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from gtcrn.errors import UserError
from gtcrn.runtime.facts import Signal, read_states
from gtcrn.runtime.framing import Stream, stream_arguments
from gtcrn.runtime.integrity import METADATA, read_folder

PARAM, BIN = "model.ncnn.param", "model.ncnn.bin"


class NcnnDenoiser(Stream):
    """A stream through a folder of task=export format=ncnn, which runs on one thread in float32.

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
            sizes = [math.prod(shape) for shape in read_states(metadata).values()]
            super().__init__(*stream_arguments(_Step(net, sizes), Signal.read(metadata)))
        except UserError:
            raise
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path / METADATA}: does not say how the model is fed ({error!r})") from error


class _Step:
    """A step of one hop, (1, hop_length) or (1, F, 1, 2) float32, through the network, whose states it keeps."""

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
        # copied, since layers write into memory that is not ncnn's own
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
