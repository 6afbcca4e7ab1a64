"""Finished models as streams of numpy arrays, which applications import.

    denoiser.py       `Denoiser`, an ONNX or LiteRT file as a stream
    ncnn.py, pt2.py, sherpa_onnx.py, c_code.py   files of other formats as streams
    bare_metal/       files of C on emulated microcontrollers
    eager.py          an enhancer in PyTorch as a stream
    facts.py          what a file states of itself: its signal, states, weights, integers
    framing.py        parts that all of them share: a step of one hop, the STFT around it, a stream of blocks
    integer_step.py   the float computations around a model in integers
    resampling.py     a stream at another sample rate
    runners.py        opens any exported file by its suffix
    denoisers.py      denoisers of whole waves, for the training of timbre restoration
    integrity.py      checks whether a file may be opened

`from gtcrn.runtime import Denoiser` needs numpy and onnxruntime or ai-edge-litert, no torch.
"""

from gtcrn.runtime.denoiser import Denoiser

__all__ = ["Denoiser"]
