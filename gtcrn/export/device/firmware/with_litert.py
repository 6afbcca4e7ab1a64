"""Runs the example with the network in LiteRT: python with_litert.py MODEL.tflite ./example NOISY.wav ENHANCED.wav

Needs numpy and ai-edge-litert. On a device TensorFlow Lite Micro takes this place.
"""

import subprocess
import sys
from contextlib import suppress

import numpy as np
from ai_edge_litert.interpreter import Interpreter


def main(model: str, *command: str) -> int:
    interpreter = Interpreter(model, num_threads=1)
    interpreter.allocate_tensors()
    first, *states = interpreter.get_input_details()
    mask, *next_states = interpreter.get_output_details()
    for state in states:
        zero = np.full(state["shape"], state["quantization"][1], state["dtype"])
        interpreter.set_tensor(state["index"], zero)
    size = first["shape"].prod() * np.dtype(first["dtype"]).itemsize
    example = subprocess.Popen([*command, "-"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with suppress(BrokenPipeError), example:  # it says itself why it ended
        while len(codes := example.stdout.read(size)) == size:
            interpreter.set_tensor(first["index"], np.frombuffer(codes, first["dtype"]).reshape(first["shape"]))
            interpreter.invoke()
            for state, next_state in zip(states, next_states):
                interpreter.set_tensor(state["index"], interpreter.get_tensor(next_state["index"]))
            example.stdin.write(interpreter.get_tensor(mask["index"]).tobytes())
            example.stdin.flush()
    return example.returncode


if __name__ == "__main__":
    if len(sys.argv) != 5:
        sys.exit(__doc__)
    try:
        sys.exit(main(*sys.argv[1:]))
    except (ValueError, OSError) as error:
        sys.exit(str(error))
