"""A network of integers and all around it as one file of C99, samples in, samples out, that needs no runtime.

program.py   the operators as calls of the kernels: tables, buffers, states
writer.py    the header and the file, see `IntegerGraph` and `write`
check.py     the compiled file against the simulation, to the bit
budget.py    limits of flash and RAM, and what takes most of them
templates/   the file's frame, its header, and the kernels
"""
