"""A loss is a sum of named, weighted terms; each term sees the waveform and the spectrum."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from gtcrn.errors import UserError


class Signals(NamedTuple):
    """A batch of signals as waveforms and spectra.

    wave: (B, N). spec: (B, 2, T, F), real and imaginary parts: the output of the core of a spectral model,
    which need not be the STFT of `wave`. None for models without a spectrum. analysis: makes such spectra of waves, for
    terms that compare the two; None for a target.
    """

    wave: Tensor
    spec: Tensor | None = None
    analysis: Callable[[Tensor], Tensor | None] | None = None


class Term(nn.Module):
    """One term of a loss: `forward(estimate, target)`, both `Signals`, gives a scalar."""

    def __init__(self, weight: float):
        super().__init__()
        self.weight = weight


class Loss(nn.Module):
    """The total of weighted terms, Σ weight · term.

    terms: by name, in the order in which they are logged. A weight of 0 logs a term without training on it.

    Raises UserError if there is no term or a weight is negative.
    """

    def __init__(self, terms: Mapping[str, Term]):
        super().__init__()
        if not terms:
            raise UserError("loss.terms is empty: name at least one term, as conf/loss/*.yaml do")
        for name, term in terms.items():
            if not 0 <= term.weight < float("inf"):
                raise UserError(f"loss.terms.{name}.weight={term.weight}: must be a number of at least 0")
        self.terms = nn.ModuleDict(dict(terms))

    def forward(self, estimate: Signals, target: Signals) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the weighted total, and each term by name, detached and *not* weighted, so that curves of
        runs with different weights can be compared.

        Powers and logarithms of small numbers need range, so everything here is float32 (float64 stays)
        whatever the precision of the model and of autocast.
        """
        with torch.autocast(estimate.wave.device.type, enabled=False):
            estimate, target = _at_least_float32(estimate), _at_least_float32(target)
            values = {name: term(estimate, target) for name, term in self.terms.items()}
            total = sum(self.terms[name].weight * value for name, value in values.items())
        return total, {name: value.detach() for name, value in values.items()}


def _at_least_float32(signals: Signals) -> Signals:
    wave, spec = signals.wave, signals.spec
    return Signals(_widened(wave), None if spec is None else _widened(spec), signals.analysis)


def _widened(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()
