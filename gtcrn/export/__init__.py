"""Finished models outside training: the streaming runtime and denoisers. Nothing is imported here:

`from gtcrn.export import runtime` needs numpy and onnxruntime, no torch.
"""
