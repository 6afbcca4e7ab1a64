"""The codes of integers, in whatever file or simulation they are. Needs no package."""

# the lowest and the highest code, by bits
CODES = {8: (-128, 127), 16: (-32768, 32767)}
# scale and zero point that LiteRT's kernels demand of the output of these operators, by bits
FIXED = {
    8: {"logistic": (2**-8, -128), "tanh": (2**-7, 0)},
    16: {"logistic": (2**-15, 0), "tanh": (2**-15, 0)},
}
HEADROOM = {8: 1.0, 16: 4.0}  # that codes leave above the largest value that was seen; 16 bits can afford 12 dB
