"""The waveform interface that all systems share: `enhanced, state = enhancer(wave, state)`."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from gtcrn.dsp import STFT
from gtcrn.errors import UserError
from gtcrn.streaming import Stateful
from gtcrn.streaming.state import State

PADDINGS = ("zeros", "reflect")


class StreamingModel(Stateful):
    """A whole model: the only level at which `state=None` means "from the beginning"."""

    def initial_state(self, batch_size: int) -> State:
        """The state of a stream that begins. Raises `UserError` if the model looks ahead."""
        self.require_causal()
        return super().initial_state(batch_size)

    def start(self, batch_size: int, state: State | None) -> State:
        """`state`, or zeros if there is none; a whole utterance may start where a stream may not."""
        if state is None:
            return super().initial_state(batch_size)
        self.require_causal()
        return state


class Enhancer(StreamingModel):
    """Noisy waveform in, enhanced waveform out, (B, N) float32 in [-1, 1] at `sample_rate`.

    sample_rate: Hz. hop_length: samples; a stream is fed multiples of it.
    latency: samples by which the streamed output is later than the whole-utterance output.
    """

    sample_rate: int
    hop_length: int
    latency: int

    def forward(self, wave: Tensor, state: State | None = None) -> tuple[Tensor, State | None]:
        """Whole utterance (state None): output aligned with the input, any N. The state given back is
        that of the stream after the utterance and the `latency` samples that flushed it, None if the
        model looks ahead.

        Stream (state from `initial_state` or from the last call): N a multiple of `hop_length`;
        the same signal, later by `latency` samples.

        Raises `UserError` for a wrong shape or chunk length, or when asked to stream while looking ahead.
        """
        self._check(wave)
        if state is None:
            return self._enhance_whole(wave)
        self.require_causal()
        if wave.shape[1] == 0 or wave.shape[1] % self.hop_length:
            raise UserError(
                f"chunk of {wave.shape[1]} samples: a stream is fed multiples of hop_length={self.hop_length}"
            )
        return self._enhance_chunk(wave, state)

    def estimate(self, wave: Tensor, masks: Callable[[Tensor], Tensor] | None = None) -> tuple[Tensor, Tensor | None]:
        """For losses: the enhanced waveform (B, N) of whole utterances, and its spectrum (B, 2, T, F) if any."""
        raise NotImplementedError

    def spectra(self, wave: Tensor) -> Tensor | None:
        """The spectrum that the core sees of whole utterances (B, N), None for models without one."""
        raise NotImplementedError

    def _enhance_whole(self, wave: Tensor) -> tuple[Tensor, State | None]:
        raise NotImplementedError

    def _enhance_chunk(self, wave: Tensor, state: State) -> tuple[Tensor, State]:
        raise NotImplementedError

    def _check(self, wave: Tensor) -> None:
        if wave.dim() != 2 or not wave.is_floating_point():
            raise UserError(
                f"wave of shape {tuple(wave.shape)} and type {wave.dtype}: expected floating point (B, N); "
                "use wave[None] for one signal"
            )


class SpectralEnhancer(Enhancer):
    """STFT, a core that maps spectra to spectra, inverse STFT.

    padding: what stands beyond the ends of a whole utterance. `zeros` is what a stream has, so
    both give the same samples; `reflect` mirrors n_fft - hop samples at either end, as
    torch.stft(center=True) does and as the published scores were made.
    """

    def __init__(self, core: StreamingModel, stft: STFT, sample_rate: int, padding: str | None = None):
        super().__init__()
        if padding not in (None, *PADDINGS):
            raise UserError(f"padding={padding}: must be one of {', '.join(PADDINGS)}")
        self.core = core
        self.stft = stft
        self.padding = padding or "zeros"
        self.sample_rate = sample_rate
        self.hop_length = stft.hop_length

    @property
    def latency(self) -> int:
        return self.stft.delay + self.total_lookahead() * self.hop_length

    def initial_state(self, batch_size: int) -> State:
        """{"analysis": (B, n_fft - hop), "core": nested, "synthesis": (B, n_fft - hop)}, zeros."""
        past = self.stft.initial_state(batch_size)
        return {"analysis": past, "core": self.core.initial_state(batch_size), "synthesis": past}

    def spectra(self, wave: Tensor) -> Tensor:
        """The spectrum of a whole utterance as the core sees it: (B, N) -> (B, 2, T, F)."""
        past, padded = self._pad(wave)
        return self.stft.analysis(padded, past)[0]

    def waveform(self, spec: Tensor, length: int) -> Tensor:
        """The inverse of `spectra`: (B, 2, T, F) -> (B, length)."""
        return self._synthesise(spec, length)[0]

    def _synthesise(self, spec: Tensor, length: int) -> tuple[Tensor, Tensor]:
        """(B, 2, T, F) -> (B, length) aligned with the input, and the overlap that a stream would go on with."""
        wave, overlap = self.stft.synthesis(spec, self.stft.initial_state(spec.shape[0]))
        # reflect ends with a frame that nothing overlaps: what it left in the overlap lacks the
        # next window's share, which is given back by division, as torch.istft does
        missing = length + self.stft.delay - wave.shape[1]
        if missing > 0:
            tail = overlap[:, :missing] / self.stft.tail_gain(spec.shape[2])[:missing]
            wave = torch.cat([wave, tail], dim=1)
        return wave[:, self.stft.delay : self.stft.delay + length], overlap

    def estimate(self, wave: Tensor, masks: Callable[[Tensor], Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """For losses: the enhanced waveform (B, N) and the core's own spectrum (B, 2, T, F).

        masks: applied to the noisy spectrum first, (B, 2, T, F) -> (B, 2, T, F).
        """
        noisy = self.spectra(wave)
        spec, _ = self.core(masks(noisy) if masks else noisy)
        return self.waveform(spec, wave.shape[1]), spec

    def _enhance_whole(self, wave: Tensor) -> tuple[Tensor, State | None]:
        past, padded = self._pad(wave)
        spec, past = self.stft.analysis(padded, past)
        spec, core_state = self.core(spec)
        enhanced, overlap = self._synthesise(spec, wave.shape[1])
        if self.total_lookahead():
            return enhanced, None
        return enhanced, {"analysis": past, "core": core_state, "synthesis": overlap}

    def _enhance_chunk(self, wave: Tensor, state: State) -> tuple[Tensor, State]:
        spec, past = self.stft.analysis(wave, state["analysis"])
        spec, core_state = self.core(spec, state["core"])
        enhanced, overlap = self.stft.synthesis(spec, state["synthesis"])
        return enhanced, {"analysis": past, "core": core_state, "synthesis": overlap}

    def _pad(self, wave: Tensor) -> tuple[Tensor, Tensor]:
        """(B, N) -> what comes before it (B, n_fft - hop), and it with what comes after: whole hops."""
        delay, hop, length = self.stft.delay, self.hop_length, wave.shape[1]
        if self.padding == "zeros":
            return self.stft.initial_state(wave.shape[0]), F.pad(wave, (0, -length % hop + delay))
        if length <= delay:
            raise UserError(
                f"padding=reflect mirrors {delay} samples at either end, but the signal has only {length}; "
                "use padding=zeros"
            )
        padded = F.pad(wave, (delay, delay), mode="reflect")
        whole_hops = padded[:, : padded.shape[1] - length % hop]
        return whole_hops[:, :delay], whole_hops[:, delay:]
