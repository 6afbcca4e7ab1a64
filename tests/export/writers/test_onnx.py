"""ONNX files: what they hold, what is refused, and what a user hears of it."""

import logging
import warnings

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper

from gtcrn.errors import UserError
from gtcrn.export.writers.onnx import check
from gtcrn.runtime.silence import silence


def model(*nodes, size=1, initializers=()):
    """Of one input and one output, (size,)."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [size]) for name in ("x", "y"))
    return helper.make_model(helper.make_graph(nodes, "g", [x], [y], initializers))


def test_what_is_refused_is_named():
    check(model(helper.make_node("Neg", ["x"], ["y"])))
    indices = helper.make_tensor("indices", TensorProto.INT64, [1, 1], [0])
    scatter = helper.make_node("ScatterND", ["x", "indices", "x"], ["y"], name="node_7")
    with pytest.raises(UserError, match=r"holds ScatterND \(node_7\)"):
        check(model(scatter, initializers=[indices]))
    true = helper.make_tensor("true", TensorProto.BOOL, [], [True])
    branch = helper.make_graph(
        [helper.make_node("Neg", ["x"], ["z"])], "b", [], [helper.make_tensor_value_info("z", TensorProto.FLOAT, [1])]
    )
    choice = helper.make_node("If", ["true"], ["y"], name="node_8", then_branch=branch, else_branch=branch)
    with pytest.raises(UserError, match=r"holds If \(node_8\)"):
        check(model(choice, initializers=[true]))
    with pytest.raises(UserError, match="tensor x has no fixed shape"):
        check(model(helper.make_node("Neg", ["x"], ["y"]), size="batch"))


def test_only_errors_are_heard(caplog):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with silence():
            warnings.warn("a converter's", stacklevel=1)
            logging.getLogger("torch.onnx").warning("chatter")
            logging.getLogger("torch.onnx").error("a fault")
    assert [record.getMessage() for record in caplog.records] == ["a fault"]
    logging.getLogger("gtcrn").warning("heard again")
    assert caplog.records[-1].getMessage() == "heard again"


@torch.inference_mode()
def test_a_file_says_what_it_is_and_is_the_stream(exported, system):
    path = exported("tiny", "onnx_wave")
    session = onnxruntime.InferenceSession(path)
    metadata = session.get_modelmeta().custom_metadata_map
    for key, value in dict(system="DTLN", kind="wave", sample_rate="16000", hop_length="16", latency="48").items():
        assert metadata[key] == value
    nodes = onnx.load(path).graph.node
    assert nodes and not any(node.metadata_props for node in nodes)  # paths of the machine that wrote it

    enhancer = system("tiny")
    wave = 0.1 * torch.randn(1, 20 * 16)
    expected, _ = enhancer(wave, enhancer.initial_state(1))
    states = {node.name: np.zeros(node.shape, np.float32) for node in session.get_inputs()[1:]}
    for hop, answer in zip(wave.reshape(20, 1, 16).numpy(), expected.reshape(20, 16)):
        y, *states_next = session.run(None, {"input": hop, **states})
        states = dict(zip(states, states_next))
        assert np.abs(y[0] - answer.numpy()).max() <= 1e-5
