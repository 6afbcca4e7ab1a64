"""A network of integers for a device: `folder.write_device_files` makes of a .tflite all that a firmware needs.

model_file.py   a .tflite of integers, taken apart
quantized.py    a tensor of its inputs and outputs
float_part.py   the float part around a network, which `gtcrn.export.c` has too
arena.py        the memory that TensorFlow Lite Micro takes for it
sources.py      the values of the templates
folder.py       all files together
parts/          the float part's own C, and its sizes
templates/      the files of one network: header, tables and bytes, operators to register, a guide
firmware/       the files that are the same for all: TensorFlow Lite Micro around the network, a firmware's loop
"""
