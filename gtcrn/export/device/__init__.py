"""A network of integers for a device: `folder.write_device_files` makes of a .tflite all that a firmware needs.

network.py   what a .tflite says of itself
arena.py     the memory that TensorFlow Lite Micro takes for it
sources.py   both as the templates need it
folder.py    all files together
templates/   what is written for one network: header, tables and bytes, operators to register, a guide
firmware/    what is the same for all: the float part, TensorFlow Lite Micro around the network, a firmware's loop
"""
