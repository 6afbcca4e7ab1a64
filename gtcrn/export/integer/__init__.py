"""Networks in integers: a list of operators that is simulated, calibrated, trained, written and checked. Nothing is
imported here: `runner` needs numpy alone.

    program.py      the list of operators, and how a model becomes one
    network.py      it in torch, over whole utterances, with every rounding of the integers
    rounding.py     the rounding, whose ranges can be learnt
    flatbuffer.py   it as a .tflite
    check.py        the file against the simulation, operator by operator
    runner.py       the file as a stream: what stays in float, around the integers
"""
