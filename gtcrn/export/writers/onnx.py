"""ONNX files: one step of a model, written by torch's exporter, checked and described."""

from __future__ import annotations

from pathlib import Path

import torch

from gtcrn.errors import UserError
from gtcrn.export.graph import Graph
from gtcrn.runtime.integrity import blank_seal, seal_onnx
from gtcrn.runtime.silence import silence

# what a small runtime lacks, or does slowly: writing in place, and control flow
REFUSED = ("Scatter", "ScatterElements", "ScatterND", "Loop", "If", "Scan")


def write(graph: Graph, path: Path, metadata: dict[str, str]) -> None:
    """Write the graph as an ONNX file with the metadata in its `metadata_props`.

    Raises UserError without the packages, or if the file would hold an operator of `REFUSED` or a shape that is not
    fixed.
    """
    try:
        import onnx
        import onnxscript  # noqa: F401  torch's exporter needs it, and says so in many lines
    except ImportError as error:
        raise UserError(f"{path.name}: writing it needs onnx and onnxscript: pip install -e '.[export]'") from error
    with silence():
        program = torch.onnx.export(
            graph.eval(),
            graph.example(),
            input_names=graph.input_names,
            output_names=graph.output_names,
            dynamo=True,
            verbose=False,
        )
    model = program.model_proto
    forget_origins(model)
    _save(model, path, metadata)
    check(onnx.load(path))


def write_metadata(path: Path, metadata: dict[str, str]) -> None:
    """Replace the metadata of a file."""
    import onnx

    _save(onnx.load(path), path, metadata)


def _save(model, path: Path, metadata: dict[str, str]) -> None:
    from onnx.helper import set_model_props

    set_model_props(model, blank_seal(metadata))
    path.write_bytes(seal_onnx(model.SerializeToString()))


def forget_origins(model) -> None:
    """Remove the lines of code that torch's exporter notes for each node: they double the file."""
    for part in (model.graph, *model.graph.node, *model.graph.value_info, *model.graph.input, *model.graph.output):
        del part.metadata_props[:]


def check(model) -> None:
    """Raise UserError naming the first node that is refused, or the first tensor whose shape is not fixed."""
    from onnx.shape_inference import infer_shapes

    for node in model.graph.node:
        if node.op_type in REFUSED:
            raise UserError(f"the graph holds {node.op_type} ({node.name}); {', '.join(REFUSED)} are not exported")
    graph = infer_shapes(model, check_type=True, strict_mode=True, data_prop=True).graph
    for tensor in (*graph.input, *graph.output, *graph.value_info):
        if not all(size.dim_value for size in tensor.type.tensor_type.shape.dim):
            raise UserError(f"the graph's tensor {tensor.name} has no fixed shape; only fixed shapes are exported")
