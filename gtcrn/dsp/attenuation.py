"""How much is taken away at most: a share of the noisy signal goes back into the enhanced one, with numpy alone.

With a limit of L dB, out = a · noisy + (1 − a) · enhanced, where a = 10^(−L/20). What the model removes is then L dB
quieter than it was, and what it keeps stays as it is. The two signals have to be aligned: if one is late, their sum
sounds like a comb filter.
"""

from __future__ import annotations

from numbers import Real

import numpy as np

from gtcrn.errors import UserError


def noisy_share(limit_db: float | None) -> float:
    """Return the share a of the noisy signal for a limit in dB: 1 for 0 dB, 0 for None, which is no limit.

    Raises UserError for a negative limit, NaN, and what is no number.
    """
    if limit_db is None:
        return 0.0
    if not isinstance(limit_db, Real) or not limit_db >= 0:  # NaN is not either
        raise UserError(f"attenuation_limit_db={limit_db}: must be a number of dB from 0, or None for no limit")
    return 10 ** (-limit_db / 20)


def mixed(noisy: np.ndarray, enhanced: np.ndarray, share: float | np.ndarray) -> np.ndarray:
    """Mix two aligned signals (…, N); share: of the noisy one, of all samples or of each, (N,)."""
    return share * noisy + (1 - share) * enhanced


class AttenuationLimit:
    """The limit of a stream. It may change at any time: the share of the noisy signal then moves within one hop.

    decibels: the limit; None for no limit, which leaves the enhanced signal alone.
    """

    def __init__(self, decibels: float | None, hop_length: int):
        self._hop_length = hop_length
        self.decibels = decibels
        self.reset()

    @property
    def decibels(self) -> float | None:
        return self._decibels

    @decibels.setter
    def decibels(self, decibels: float | None) -> None:
        self._wanted = noisy_share(decibels)
        self._decibels = decibels

    def reset(self) -> None:
        """Begin a new stream, with the limit as it is."""
        self._share = self._wanted

    @property
    def active(self) -> bool:
        """Whether any of the noisy signal is mixed in, or is about to be."""
        return self._share > 0 or self._wanted > 0

    def mix_into(self, enhanced: np.ndarray, noisy: np.ndarray) -> None:
        """Mix the next whole hops (N,) of two aligned signals, at least one, in place."""
        before, self._share = self._share, self._wanted  # another thread may change the latter meanwhile
        share: float | np.ndarray = self._share
        if before != share:
            share = np.full(len(noisy), share, np.float32)
            share[: self._hop_length] = np.linspace(before, self._share, self._hop_length + 1)[1:]
        enhanced[:] = mixed(noisy, enhanced, share)
