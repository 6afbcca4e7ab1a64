"""Networks in integers: a list of operators that is simulated, calibrated and trained. Nothing is imported here.

    codes.py        codes, and the scales and zero points that kernels demand
    program.py      the list of operators, and how a model is lowered to it
    network.py      its simulation in torch, over whole utterances, with every rounding of the integers
    rounding.py     fake quantization, whose scales and zero points can be trained
    calibration.py  the choice of ranges by recordings
    checkpoint.py   checkpoints of quantization-aware training

`gtcrn.export.writers.flatbuffer` writes them, `gtcrn.export.check` compares the file with the simulation, and
`gtcrn.runtime.integer_step` runs it. `gtcrn.export.c` writes them as C, and compares that.
"""
