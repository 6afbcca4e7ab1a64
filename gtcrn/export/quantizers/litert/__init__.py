"""LiteRT files (.tflite) in integers inside: the float file's own operators, with other tensors.

In integers are convolutions and fully connected layers, those of recurrent layers too, since they are written out, and
what lies between them with nothing in float on either side: gates, sums, slices, the past of convolutions. All else
stays as it is: framing, Fourier transforms, ERB matrices, normalisations, cells of LSTMs, and the mask.

    tables.py        a file as tables
    observation.py   its tensors while it streams recordings
    choice.py        which operators become integers, and of how many bits
    scales.py        their scales and zero points
    conversion.py    `quantize`
    contents.py      `work` and `tensor_errors`
"""

from gtcrn.errors import UserError

try:
    from gtcrn.export.quantizers.litert.contents import tensor_errors, work
    from gtcrn.export.quantizers.litert.conversion import quantize
except ImportError as error:
    raise UserError(f"integers for LiteRT need {error.name}: pip install -e '.[litert]'") from error

__all__ = ["quantize", "tensor_errors", "work"]
