"""Networks in integers: a list of operators that is simulated, calibrated and trained. Nothing is imported here.

    program.py      the list of operators, and how a model becomes one
    network.py      it in torch, over whole utterances, with every rounding of the integers
    rounding.py     the rounding, whose ranges can be learnt
    calibration.py  ranges chosen by recordings
    checkpoint.py   networks that quantization-aware training has left

`gtcrn.export.writers.flatbuffer` writes them, `gtcrn.export.check` compares the file with the simulation, and
`gtcrn.runtime.integer_step` runs it.
"""
