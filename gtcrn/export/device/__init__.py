"""A network of integers for a device: `folder.write_device_files` makes of a .tflite all that a firmware needs.

model_file.py   a .tflite of integers, taken apart
arena.py        the memory that TensorFlow Lite Micro takes for it
sources.py      the values of the templates
folder.py       all files together
templates/      the files of one network: header, tables and bytes, operators to register, a guide
firmware/       the files that are the same for all: the float part, TensorFlow Lite Micro around the network, a
                firmware's loop
"""
