"""The values that a network has in the templates of C, C++ and their guide."""

from __future__ import annotations

from math import ceil
from textwrap import wrap

from gtcrn.errors import UserError
from gtcrn.export.device.float_part import decimal, float_part, rows
from gtcrn.export.device.model_file import ModelFile

# of tflite::MicroMutableOpResolver, by the schema's name
REGISTER = {
    "ADD": "AddAdd",
    "CONCATENATION": "AddConcatenation",
    "CONV_2D": "AddConv2D",
    "DEPTHWISE_CONV_2D": "AddDepthwiseConv2D",
    "LEAKY_RELU": "AddLeakyRelu",
    "LOGISTIC": "AddLogistic",
    "MEAN": "AddMean",
    "MUL": "AddMul",
    "PAD": "AddPad",
    "QUANTIZE": "AddQuantize",
    "RESHAPE": "AddReshape",
    "SLICE": "AddSlice",
    "TANH": "AddTanh",
}

_MEASURED = (
    "The arena was measured in TensorFlow Lite Micro with its reference kernels on a computer of 64 bits: it is less "
    "where pointers have 32 bits, and may be more with optimised kernels. MicroInterpreter::arena_used_bytes() tells."
)
_GUESSED = (
    "The size of the arena is a guess, three times the network: it is measured at export where the Python package "
    "tflite-micro is installed, and by MicroInterpreter::arena_used_bytes() on the device."
)


def values(network: ModelFile, arena: int | None) -> dict[str, object]:
    """Return the values by their names in the templates. arena: bytes, None if they were not measured.

    Raises UserError for an operator that TensorFlow Lite Micro is not known to have, and for an ERB matrix with bins
    in bands that are no neighbours.
    """
    codes = network.residual_gain, network.input, network.mask
    return {
        **_facts(network),
        **_sizes(network),
        **float_part(network.signal, *codes, network.erb, linkage=""),
        "arena": arena or 3 * len(network.content),
        "arena_meaning": _MEASURED if arena else _GUESSED,
        "arena_comment": "\n * ".join(wrap(_MEASURED if arena else _GUESSED, 110)),
        "tensors": "\n".join(_described(network)),
        "state_rows": ",\n".join(
            f'    {{"{s.name}", {s.bytes}, {decimal(s.scale)}, {s.zero}}}' for s in network.states
        ),
        "model_rows": rows([str(byte) for byte in network.content], 30),
        "operator_count": len(network.operators),
        "operator_rows": "\n".join(_registered(network)),
    }


def _facts(network: ModelFile) -> dict[str, object]:
    """Return what the metadata state, as a comment in C may hold it."""
    unknown = dict.fromkeys(("system", "origin", "licence", "revision"), "not stated")
    stated = {key: str(value).replace("*/", "* /") for key, value in network.metadata.items()}
    return unknown | stated | {"name": network.name}


def _sizes(network: ModelFile) -> dict[str, int]:
    """Return sizes of input and mask in codes, and of memory in bytes, as compilers lay it out for 32-bit pointers."""
    bands, bins = network.erb.shape
    floats = 2 * network.latency + 2 * bins + 3 * bands
    tables = 4 * (network.signal.n_fft // 2 + 1) + 12 * bins + sum(16 + len(s.name) + 1 for s in network.states)
    return {
        "states": len(network.states),
        "states_bytes": sum(state.bytes for state in network.states),
        "host_bytes": 4 * (floats + ceil((network.input.bytes + network.mask.bytes) / 4)),
        "model_size": len(network.content),
        "table_bytes": tables,
    }


def _described(network: ModelFile) -> list[str]:
    """Return a line of a comment for every tensor."""
    tensors = [("input 0", network.input), ("output 0", network.mask)]
    tensors += [(f"state {number}", state) for number, state in enumerate(network.states, 1)]
    return [
        f" *     {role:9} {t.name:28} int{t.bits:<2} {list(t.shape)!s:17} scale {t.scale:<14.8g} zero point {t.zero}"
        for role, t in tensors
    ]


def _registered(network: ModelFile) -> list[str]:
    strange = [name for name in network.operators if name not in REGISTER]
    if strange:
        raise UserError(f"holds {', '.join(strange)}, which TensorFlow Lite Micro is not known to have")
    return [f"  TF_LITE_ENSURE_STATUS(resolver.{REGISTER[name]}());" for name in network.operators]
