"""Formats: every export has a name of its own."""

from itertools import product

import pytest

from gtcrn.errors import UserError
from gtcrn.export.formats import FORMATS, ExportFormat, file_name, register


@pytest.mark.parametrize(
    ("stem", "format", "quantize", "name"),
    [
        ("micro", "onnx", None, "micro.onnx"),
        ("micro", "onnx_wave", None, "micro_wave.onnx"),
        ("micro", "litert", "int8", "micro_int8.tflite"),
        ("micro_int8", "litert", None, "micro_int8_float.tflite"),  # the model that is made for eight bits, in float
        ("micro_int8", "litert", "int8", "micro_int8_int8.tflite"),
        ("micro", "c", "int8", "micro_int8_c"),
        ("micro_int8", "onnx_wave", "dynamic", "micro_int8_dynamic_wave.onnx"),
    ],
)
def test_names(stem, format, quantize, name):
    assert file_name(stem, format, quantize) == name


def test_no_two_exports_share_a_name():
    """Not even of models that are named after the files of another."""
    endings = ("", *(f"_{ending}" for ending in ("int8", "dynamic", "mixed", "float", "wave", "sherpa", "ncnn", "c")))
    stems = {f"micro{first}{second}" for first, second in product(endings, repeat=2)}
    wanted = [
        (stem, name, quantize)
        for stem in stems
        for name, format in FORMATS.items()
        for quantize in (None, *format.quantize)
    ]
    names = [file_name(*each) for each in wanted]
    assert len(set(names)) == len(names)


def test_a_format_of_ones_own_keeps_its_name_and_suffix_to_itself(registries):
    known = list(FORMATS)
    own = ExportFormat("my_format", "my_format:Stream", "torch", ".ts")
    register("script", own)
    register("script", own)  # its module may be imported twice
    assert list(FORMATS) == [*known, "script"]
    for name, taken in (("onnx", own), ("other", own), ("other", own._replace(suffix=".onnx"))):
        with pytest.raises(UserError, match=f"format={name}: its name or its suffix {taken.suffix} is that of format="):
            register(name, taken)
