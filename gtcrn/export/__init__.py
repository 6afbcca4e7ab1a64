"""Finished models outside training: files of many formats, the streaming runtime, denoisers. Nothing is imported here:

`from gtcrn.export import runtime` needs numpy and onnxruntime or ai-edge-litert, no torch.
"""
