"""Numba compiles these functions, for float32 and float64.

A loop over what is computed alike is innermost, so that it vectorises.

Loops are many and short, because LLVM vectorises a loop only if few of the arrays in it might overlap. The import of
numba takes half a second: the layers import these files when they first compute.
"""
