"""Which operators of a file become integers, and of how many bits."""

from __future__ import annotations

from gtcrn.export.quantizers.litert.observation import Seen
from gtcrn.export.quantizers.litert.scales import Scales
from gtcrn.export.quantizers.litert.tables import MOVES, File

BETWEEN = MOVES | {"ADD", "SUB", "MUL", "MEAN", "LEAKY_RELU", "LOGISTIC", "TANH", "BATCH_MATMUL"}
ENOUGH = 30.0  # dB between a tensor and its rounding to 8 bits


def layers(file: File) -> set[int]:
    """Return the convolutions and fully connected layers of the network, but for those of energies: a square has twice
    the range in dB."""
    found, squared = set(), set()
    for number, (kind, op) in enumerate(zip(file.kinds, file.operators)):
        sources = file.floats(number)
        if kind == "MUL" and len({*sources}) < len(sources) or kind in MOVES | {"MEAN"} and squared & {*sources}:
            squared |= {*op.outputs}
        elif file.weight(number) is not None and not file.selects(number) and not squared & {*sources}:
            found.add(number)
    return found


def widths(file: File, quantize: str, seen: dict[int, Seen]) -> dict[int, int]:
    """Return the bits of the activations of every operator in integers, by its number.

    "mixed": 16 for layers whose input or output rounded to 8 would be less than `ENOUGH` dB above the error, and for
    what lies behind those until the next layer.
    """
    chosen = integer_operators(file, seen)
    bits = dict.fromkeys(chosen, 16 if quantize == "int16x8" else 8)
    if quantize == "mixed":
        scales, multiplying = Scales(file, bits, seen), layers(file)
        wide = {k for k in multiplying if min(map(scales.snr, (*file.floats(k), *file.operators[k].outputs))) < ENOUGH}
        while wide:
            bits |= dict.fromkeys(wide, 16)
            narrow = {k for k in chosen - multiplying if bits[k] == 8}
            wide = {k for k in narrow if 16 in {bits.get(file.makers.get(i)) for i in file.floats(k)}}
    return bits


def _accumulating(file: File, seen: dict[int, Seen]) -> set[int]:
    """Return the operators by which a state is added to itself, beyond ±1: cells of LSTMs, whose range is open."""
    found = set()
    for state, new in file.states.items():
        after, before = {state}, {new}
        linear = [k for k, kind in enumerate(file.kinds) if kind in MOVES | {"ADD", "SUB", "MUL"}]
        for number in linear:
            if after & {*file.floats(number)}:
                after |= {*file.operators[number].outputs}
        for number in reversed(linear):
            if before & {*file.operators[number].outputs}:
                before |= {*file.floats(number)}
        loop = {k for k in linear if after & before & {*file.operators[k].outputs}}
        if max(-seen[state].low, seen[state].high) > 1 and "ADD" in {file.kinds[k] for k in loop}:
            found |= loop
    return found


def integer_operators(file: File, seen: dict[int, Seen]) -> set[int]:
    """Return the layers, and the operators between them that neither take a float nor are of use to floats alone."""
    fixed = layers(file)
    between = {
        k for k, kind in enumerate(file.kinds) if kind in BETWEEN or file.weight(k) is not None and file.selects(k)
    }
    chosen = fixed | between - _accumulating(file, seen)
    while True:
        fed = {k for k in chosen if k in fixed or all(file.makers.get(i) in chosen for i in file.floats(k))}
        of_use, todo = set(fixed), list(fixed)
        while todo:
            makers = {file.makers.get(i) for i in file.floats(todo.pop())} & fed - of_use
            of_use |= makers
            todo += makers
        if of_use == chosen:
            return chosen
        chosen = of_use
