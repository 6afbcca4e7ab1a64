"""A C file of task=export on emulated cores without an operating system.

emulation.py                    the cores; a file compiled for one, and run on it
main.c machine.h memory.ld      what runs there: samples in, samples out, and a line of counts
cortex_m.c riscv.c              what each kind of core has before main, its counter, and how it reads files
"""
