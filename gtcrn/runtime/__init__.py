"""Finished models as streams, with numpy around them: what an application imports.

    denoiser.py       `Denoiser`, an ONNX or LiteRT file as a stream
    ncnn.py, pt2.py, sherpa_onnx.py   files of other formats likewise
    eager.py          an enhancer in PyTorch likewise
    framing.py        what all of them are made of: a step of one hop, the STFT around it, a stream of blocks
    integer_step.py   what stays in float around a model in integers
    resampling.py     a stream at another sample rate
    runners.py        any of them by the suffix of its file
    denoisers.py      whole waves at once, as the training of timbre restoration needs them
    integrity.py      whether a file may be opened

`from gtcrn.runtime import Denoiser` needs numpy and onnxruntime or ai-edge-litert, no torch.
"""

from gtcrn.runtime.denoiser import Denoiser

__all__ = ["Denoiser"]
