"""One module per file format: `write(graph, path, metadata)`. Nothing is imported here: each needs its own package.

onnx.py, sherpa_onnx.py, litert.py, ncnn.py, pt2.py   by the name of the format
flatbuffer.py     a network in integers as a .tflite, for a device
tflite_schema.py  the parts of the .tflite schema that several modules need
rewriting.py      functions of torch in forms that a converter knows
"""
