"""Exported ONNX files in integers by ONNX Runtime's own quantizer, and how much the runtime truly runs in integers.

int8: weights with a scale for each output channel, activations with their ranges in a stream of recordings.
dynamic: 8-bit weights, activations rounded by what each hop holds.

All codes are unsigned: processors without VNNI saturate sums of products of unsigned and signed ones.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from math import prod
from pathlib import Path

import numpy as np
import pandas as pd

from gtcrn.dsp.snr import measured_snr
from gtcrn.errors import UserError
from gtcrn.export.quantizers.frames import inputs
from gtcrn.export.quantizers.work import Work
from gtcrn.runtime.denoiser import open_onnx
from gtcrn.runtime.facts import Signal
from gtcrn.runtime.integrity import SEAL
from gtcrn.runtime.silence import silence

PERCENTILE = 99.99  # of a tensor's values that are not clipped, at either end
HOPS = 500  # evenly spread, whose values are looked at
FEATURES = "enhancer.core.features.weight"  # only the GTCRN family has them
FRONT = (FEATURES, "enhancer.core.encoder.0.", "enhancer.core.encoder.1.")
SPARSE = 0.8  # zeros, more than three of four groups leave in a weight

_PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul", "GRU", "LSTM")
_INTEGERS = ("ConvInteger", "MatMulInteger", "DynamicQuantizeLSTM")
_NO_KERNEL = "ONNX Runtime has no integer kernel"
_LACKING = {
    "int8": {
        "ConvTranspose": _NO_KERNEL,
        "GRU": _NO_KERNEL,
        "LSTM": "ONNX Runtime has an integer kernel for quantize=dynamic alone",
    },
    "dynamic": {
        "Conv": "ONNX Runtime has one scale for all channels of a weight then, which is audible, and is slower",
        "ConvTranspose": _NO_KERNEL,
        "GRU": _NO_KERNEL,
    },
}


def quantize(source: Path, target: Path, quantize: str, waves: Sequence[np.ndarray]) -> None:
    """Write an exported ONNX file in integers, with the same inputs, outputs and metadata.

    quantize: int8 or dynamic. waves: (N,) at the model's rate, by which ranges are chosen; none for "dynamic". Raises
    UserError for "int8" without waves, a file that is missing, damaged or in integers, and without the packages.
    """
    if quantize == "int8" and not any(map(len, waves)):
        raise UserError(f"{source}: quantize=int8 needs recordings by which to choose ranges")
    open_onnx(source)
    onnx = _package(source)
    with silence():
        model = onnx.load(source)
        if _mode(model):
            raise UserError(f"{source}: is in integers already; take the float file that it was made of")
        weights = _weights(model)
        metadata = _metadata(model)
        nodes = [node for node in model.graph.node if _product(node) and not _reason(node, model, weights, quantize)]
        if quantize == "int8":
            _write_static(model, nodes, waves, target)
        else:
            _write_dynamic(model, nodes, target)
        written = onnx.load(target)
        onnx.helper.set_model_props(written, metadata)  # the quantizer adds some of its own
        onnx.checker.check_model(written)
        onnx.save(written, target)


def _write_static(model, nodes: list, waves: Sequence[np.ndarray], target: Path) -> None:
    from onnxruntime.quantization import CalibrationMethod, QuantType
    from onnxruntime.quantization.calibrate import TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    tensors = dict.fromkeys(name for node in nodes for name in (node.input[0], node.output[0]))
    quantizer = QDQQuantizer(
        model,
        per_channel=True,
        reduce_range=False,
        weight_qType=QuantType.QUInt8,
        activation_qType=QuantType.QUInt8,
        tensors_range=TensorsData(CalibrationMethod.MinMax, _ranges(model, list(tensors), waves)),
        nodes_to_quantize=[node.name for node in nodes],
        nodes_to_exclude=[],
        op_types_to_quantize=["Conv", "Gemm", "MatMul"],
        extra_options={
            "WeightSymmetric": True,
            "DedicatedQDQPair": True,  # other readers of the tensor take it in float
            "OpTypesToExcludeOutputQuantization": ["Gemm", "MatMul"],  # whose kernels can give floats
        },
    )
    quantizer.quantize_model()
    quantizer.model.save_model_to_file(target)


def _write_dynamic(model, nodes: list, target: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    del model.graph.value_info[:]  # weights among them, whose shapes change: each Gemm becomes a MatMul
    quantize_dynamic(
        model,
        target,
        op_types_to_quantize=["MatMul", "LSTM"],
        per_channel=True,
        weight_type=QuantType.QUInt8,
        nodes_to_quantize=[f"{node.name}_MatMul" if node.op_type == "Gemm" else node.name for node in nodes],
        extra_options={"WeightSymmetric": True},
    )


def work(path: Path) -> Work:
    """Return how much of an ONNX file, float or quantized, ONNX Runtime runs in integers on this processor.

    Multiplications by the zeros of ungrouped convolutions and of shuffles count. Raises UserError for a file that is
    missing or damaged, and without the packages.
    """
    onnx = _package(path)
    fused = _optimised(path, onnx)
    in_integers = {node.name for node in fused.graph.node if node.op_type.startswith(("QLinear", "QGemm", "MatMulInt"))}
    model = onnx.shape_inference.infer_shapes(onnx.load(path))
    shapes, weights, mode = _shapes(model), _weights(model), _mode(model)
    counts = Counter()
    left: dict[str, Counter[str]] = {}
    for node in filter(_product, model.graph.node):
        macs = _macs(node, shapes)
        integer = node.op_type in _INTEGERS or node.name in in_integers
        counts[integer] += macs
        if not integer:
            why = _reason(node, model, weights, mode) if mode else "the file is not quantized"
            left.setdefault(node.op_type, Counter())[why or "ONNX Runtime chose floats"] += macs
    total = max(counts.total(), 1)
    reasons = {
        kind: "; ".join(f"{why} ({100 * macs / total:.1f} %)" for why, macs in whys.most_common())
        for kind, whys in left.items()
    }
    return Work(counts[True], counts[False], reasons, dict(Counter(node.op_type for node in fused.graph.node)))


def tensor_errors(source: Path, target: Path, wave: np.ndarray) -> pd.Series:
    """Return the SNR in dB of the outputs of learnt layers in the quantized file against the float file, in order.

    wave: (N,), streamed through both.
    """
    onnx = _package(source)
    model, quantized = onnx.load(source), onnx.load(target)
    weights, known = _weights(model), {name for node in quantized.graph.node for name in node.output}
    layers = {
        node.output[0]: _layer(node)
        for node in model.graph.node
        if node.op_type in _PRODUCTS and node.output[0] in known and not _unlearnt(node, weights)
    }
    exact, rounded = (_values(part, list(layers), [wave], stride=1) for part in (model, quantized))
    return pd.Series({name: measured_snr(rounded[tensor], exact[tensor]) for tensor, name in layers.items()})


def _package(path: Path):
    try:
        import onnx
        import onnx.shape_inference
    except ImportError as error:
        raise UserError(f"{path}: reading its graph needs onnx: pip install -e '.[export]'") from error
    return onnx


def _metadata(model) -> dict[str, str]:
    """Return what a file says of itself, without its seal."""
    return {fact.key: fact.value for fact in model.metadata_props if fact.key != SEAL}


def _mode(model) -> str | None:
    """Return how a file was quantized; None for a float file."""
    kinds = {node.op_type for node in model.graph.node}
    if kinds & {"DynamicQuantizeLinear", "DynamicQuantizeLSTM"}:
        return "dynamic"
    return "int8" if "QuantizeLinear" in kinds else None


def _product(node) -> bool:
    return node.op_type in (*_PRODUCTS, *_INTEGERS)


def _weights(model) -> dict[str, np.ndarray]:
    from onnx.numpy_helper import to_array

    return {tensor.name: to_array(tensor) for tensor in model.graph.initializer}


def _reason(node, model, weights: dict[str, np.ndarray], quantize: str) -> str | None:
    """Return why a product stays in float; None if it does not."""
    if node.op_type in _LACKING[quantize]:
        return _LACKING[quantize][node.op_type]
    if why := _unlearnt(node, weights):
        return why
    if quantize == "int8" and FEATURES in weights and node.input[1].startswith(FRONT):
        return "the front, whose linear magnitudes have too wide a range for 8 bits"
    if quantize == "int8" and node.op_type == "MatMul" and _biased(node, model):
        return "ONNX Runtime makes a Gemm of floats of it and its bias"
    return None


def _unlearnt(node, weights: dict[str, np.ndarray]) -> str | None:
    """Return in words what an untrained product is; None if the product is of the network proper."""
    weight = weights.get(node.input[1])
    rounded = node.input[1].endswith("_DequantizeLinear_Output")
    if any(".dft." in name for name in node.input):
        return "the Fourier transform"
    if weight is None and not rounded:
        return "products of two signals, of attention or the Fourier transform"
    if ".turn." in node.input[1]:
        return "the complex mask"
    if weight is not None and np.mean(weight == 0) > SPARSE:
        return "filter banks and shuffles, mostly zeros"
    return None


def _biased(node, model) -> bool:
    return any(other.op_type == "Add" and node.output[0] in other.input for other in model.graph.node)


def _layer(node) -> str:
    """Return the layer's name in the model if its weight has it, else that of its output."""
    name = node.input[1]
    learnt = name.startswith("enhancer.")
    return name.removeprefix("enhancer.").removeprefix("core.").rpartition(".")[0] if learnt else node.output[0]


def _ranges(model, tensors: list[str], waves: Sequence[np.ndarray]) -> dict[str, tuple[np.float32, np.float32]]:
    """Return the percentiles of every tensor's values."""
    stride = max(1, sum(map(len, waves)) // Signal.read(_metadata(model)).hop_length // HOPS)
    values = _values(model, tensors, waves, stride)
    return {
        name: tuple(np.percentile(seen, (100 - PERCENTILE, PERCENTILE)).astype(np.float32))
        for name, seen in values.items()
    }


def _values(model, tensors: list[str], waves: Iterable[np.ndarray], stride: int) -> dict[str, np.ndarray]:
    """Return the values of each tensor in every stride-th hop of all streams, (hops, *shape)."""
    from onnx import ModelProto, helper, save

    watched = ModelProto()
    watched.CopyFrom(model)
    helper.set_model_props(watched, _metadata(model))
    outputs = {output.name for output in (*model.graph.input, *model.graph.output)}
    watched.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in tensors if name not in outputs)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "watched.onnx"
        save(watched, path)
        session = open_onnx(path)
    hops = (hop for wave in waves for hop in _streamed(session, wave))
    seen = [{name: hop[name] for name in tensors} for hop in islice(hops, 0, None, stride)]
    return {name: np.stack([hop[name] for hop in seen]) for name in tensors}


def _streamed(session, wave: np.ndarray) -> Iterator[dict[str, np.ndarray]]:
    """Yield inputs and outputs of every hop by name, from zero states on."""
    first, *states = session.get_inputs()
    outputs = [output.name for output in session.get_outputs()]
    past = {state.name: np.zeros(state.shape, np.float32) for state in states}
    for x in inputs(wave, Signal.read(session.get_modelmeta().custom_metadata_map)):
        given = {first.name: x} | past
        results = dict(zip(outputs, session.run(None, given)))
        yield given | results
        past = {name: results[f"next_{name}"] for name in past}


def _optimised(path: Path, onnx):
    """Return the graph with the runtime's own kinds of operators, before it changes their layout and names."""
    open_onnx(path)  # raises UserError, which says what is wrong with the file
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / "optimised.onnx"
        options.optimized_model_filepath = str(written)
        onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        return onnx.load(written)


def _shapes(model) -> dict[str, list[int]]:
    graph = model.graph
    values = {
        value.name: [size.dim_value for size in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.output, *graph.value_info)
    }
    return values | {tensor.name: list(tensor.dims) for tensor in graph.initializer}


def _macs(node, shapes: dict[str, list[int]]) -> int:
    x, weight = (shapes[name] for name in node.input[:2])
    match node.op_type:
        case "Conv" | "ConvInteger":  # (C', C / groups, *kernel)
            return prod(weight) * prod(shapes[node.output[0]][2:])
        case "ConvTranspose":
            return prod(weight) * prod(x[2:])
        case "GRU" | "LSTM" | "DynamicQuantizeLSTM":  # (hops, B, C)
            return prod(x[:2]) * (prod(weight) + prod(shapes[node.input[2]]))
    return x[-1] * prod(shapes[node.output[0]])
