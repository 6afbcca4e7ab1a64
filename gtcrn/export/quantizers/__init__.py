"""Exported float files that become integers inside, where their runtime has such kernels; states stay float outside.

    onnx.py, litert.py   each for its runtime: `quantize`, `work` and `tensor_errors`
    frames.py            recordings as the inputs of a file
    work.py              what runs in integers, and what does not and why

GTCRN-Micro for a microcontroller is another matter, see `gtcrn.quantization`.
"""
