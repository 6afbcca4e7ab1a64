"""Where speech is active, told from the power of its frames."""

import numpy as np

_MARGIN = 10 ** (-15.9 / 10)


def active_frames(power: np.ndarray) -> np.ndarray:
    """(T,) bool of the powers of frames (T,): at most 15.9 dB below the mean of the active ones, as in ITU-T P.56."""
    threshold = 0.0
    while (
        power.max(initial=0) > threshold and (raised := _MARGIN * power[power > threshold].mean()) > 1.001 * threshold
    ):
        threshold = raised
    return power > threshold
