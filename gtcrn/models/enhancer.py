"""The waveform interface that all systems share: `enhanced, state = enhancer(wave, state)`."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from gtcrn.dsp import Frames, irfft, rfft
from gtcrn.errors import UserError
from gtcrn.streaming import Stateful
from gtcrn.streaming.state import State

PADDINGS = ("zeros", "reflect", "none")
RATES = 1000, 768000  # Hz, the lowest and the highest
DEEPEST = 32  # blocks or layers of one kind


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


def checked_rate(sample_rate: int) -> int:
    """Give back a sample rate in Hz. Raises `UserError` for one that no sound has."""
    lowest, highest = RATES
    if not lowest <= sample_rate <= highest:
        raise UserError(f"model.sample_rate={sample_rate}: must lie between {lowest} and {highest} Hz")
    return sample_rate


class Enhancer(StreamingModel):
    """Noisy waveform in, enhanced waveform out, (B, N) float32 in [-1, 1] at `sample_rate`.

    core: the network, without what turns samples into its input and its output into samples.
    sample_rate: Hz. hop_length: samples; a stream is fed multiples of it.
    window_length: samples that one step of the core sees at a time, at least a hop.
    latency: samples by which the streamed output is later than the whole-utterance output.
    input_level: dBFS at which it was trained, RMS of noisy speech where speech is active; None if nobody knows.
    """

    core: StreamingModel
    sample_rate: int
    hop_length: int
    window_length: int
    latency: int
    input_level: float | None = None

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
        """For losses: the spectrum of whole utterances (B, N) to compare that of `estimate` with, if it gives one."""
        raise NotImplementedError

    def core_input(self, wave: Tensor) -> Tensor:
        """What the core sees of whole utterances (B, N): (B, C, T, …), time in dimension 2."""
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


class FrameEnhancer(Enhancer):
    """Frames, a core that maps frames to frames of the same shape, overlap-add.

    padding: what stands beyond the ends of a whole utterance. `zeros` is what a stream has, so
    both give the same samples; `reflect` mirrors n_fft - hop samples at either end, as
    torch.stft(center=True) does and as the published scores of GTCRN's family were made; `none` takes
    whole frames of the signal alone, as DTLN's were: its ends are overlapped by fewer frames and fade.
    """

    def __init__(self, core: StreamingModel, framing: Frames, sample_rate: int, padding: str | None = None):
        super().__init__()
        if padding not in (None, *PADDINGS):
            raise UserError(f"padding={padding}: must be one of {', '.join(PADDINGS)}")
        self.core = core
        self.framing = framing
        self.padding = padding or "zeros"
        self.sample_rate = checked_rate(sample_rate)
        self.hop_length = framing.hop_length
        self.window_length = framing.n_fft

    @property
    def latency(self) -> int:
        return self.framing.delay + self.total_lookahead() * self.hop_length

    def initial_state(self, batch_size: int) -> State:
        """{"analysis": (B, n_fft - hop), "core": nested, "synthesis": (B, n_fft - hop)}, zeros."""
        past = self.framing.initial_state(batch_size)
        return {"analysis": past, "core": self.core.initial_state(batch_size), "synthesis": past}

    def core_input(self, wave: Tensor) -> Tensor:
        """The frames of whole utterances: (B, N) -> (B, C, T, F)."""
        past, padded = self._pad(wave)
        return self.framing.analysis(padded, past)[0]

    def waveform(self, frames: Tensor, length: int) -> Tensor:
        """The inverse of `core_input`: (B, C, T, F) -> (B, length)."""
        return self._synthesise(frames, length)[0]

    def spectra(self, wave: Tensor) -> Tensor | None:
        """None: losses see the waveform alone."""
        return None

    def estimate(self, wave: Tensor, masks: Callable[[Tensor], Tensor] | None = None) -> tuple[Tensor, Tensor | None]:
        """For losses: the enhanced waveform (B, N).

        masks: applied to the spectrum of the noisy frames first, (B, 2, T, F) -> (B, 2, T, F).
        """
        noisy = self.core_input(wave)
        frames, _ = self.core(irfft(masks(rfft(noisy))) if masks else noisy)
        return self.waveform(frames, wave.shape[1]), None

    def _synthesise(self, frames: Tensor, length: int) -> tuple[Tensor, Tensor]:
        """(B, C, T, F) -> (B, length) aligned with the input, and the overlap that a stream would go on with."""
        wave, overlap = self.framing.synthesis(frames, self.framing.initial_state(frames.shape[0]))
        if self.padding == "none":
            wave = torch.cat([wave, overlap], dim=1)
            return F.pad(wave, (0, length - wave.shape[1])), overlap
        # reflect ends with a frame that nothing overlaps: what it left in the overlap lacks the
        # next window's share, which is given back by division, as torch.istft does
        missing = length + self.framing.delay - wave.shape[1]
        if missing > 0:
            tail = overlap[:, :missing] / self.framing.tail_gain(frames.shape[2])[:missing]
            wave = torch.cat([wave, tail], dim=1)
        return wave[:, self.framing.delay : self.framing.delay + length], overlap

    def _enhance_whole(self, wave: Tensor) -> tuple[Tensor, State | None]:
        past, padded = self._pad(wave)
        frames, past = self.framing.analysis(padded, past)
        frames, core_state = self.core(frames)
        enhanced, overlap = self._synthesise(frames, wave.shape[1])
        if self.total_lookahead():
            return enhanced, None
        return enhanced, {"analysis": past, "core": core_state, "synthesis": overlap}

    def _enhance_chunk(self, wave: Tensor, state: State) -> tuple[Tensor, State]:
        frames, past = self.framing.analysis(wave, state["analysis"])
        frames, core_state = self.core(frames, state["core"])
        enhanced, overlap = self.framing.synthesis(frames, state["synthesis"])
        return enhanced, {"analysis": past, "core": core_state, "synthesis": overlap}

    def _pad(self, wave: Tensor) -> tuple[Tensor, Tensor]:
        """(B, N) -> what comes before it (B, n_fft - hop), and it with what comes after: whole hops."""
        delay, hop, length = self.framing.delay, self.hop_length, wave.shape[1]
        if self.padding == "zeros":
            return self.framing.initial_state(wave.shape[0]), F.pad(wave, (0, -length % hop + delay))
        if self.padding == "none":
            if length < self.framing.n_fft:
                raise UserError(
                    f"padding=none takes frames of {self.framing.n_fft} samples, but the signal has only {length}; "
                    "use padding=zeros"
                )
            whole_hops = wave[:, : length - (length - delay) % hop]
            return whole_hops[:, :delay], whole_hops[:, delay:]
        if length <= delay:
            raise UserError(
                f"padding=reflect mirrors {delay} samples at either end, but the signal has only {length}; "
                "use padding=zeros"
            )
        padded = F.pad(wave, (delay, delay), mode="reflect")
        whole_hops = padded[:, : padded.shape[1] - length % hop]
        return whole_hops[:, :delay], whole_hops[:, delay:]


class SpectralEnhancer(FrameEnhancer):
    """STFT, a core that maps spectra to spectra, inverse STFT: the frames are spectra (B, 2, T, F)."""

    def spectra(self, wave: Tensor) -> Tensor:
        """The spectrum of whole utterances as the core sees it: (B, N) -> (B, 2, T, F)."""
        return self.core_input(wave)

    def estimate(self, wave: Tensor, masks: Callable[[Tensor], Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """For losses: the enhanced waveform (B, N) and the core's own spectrum (B, 2, T, F).

        masks: applied to the noisy spectrum first, (B, 2, T, F) -> (B, 2, T, F).
        """
        noisy = self.spectra(wave)
        spec, _ = self.core(masks(noisy) if masks else noisy)
        return self.waveform(spec, wave.shape[1]), spec


class WaveEnhancer(Enhancer):
    """A core that maps samples to samples, (B, 1, N) -> (B, 1, N), each from itself and those before it.

    N of the core is a multiple of `hop_length`. Beyond the ends of a whole utterance stand zeros.
    """

    latency = 0
    padding = "zeros"

    def __init__(self, core: StreamingModel, sample_rate: int, hop_length: int):
        super().__init__()
        self.core = core
        self.sample_rate = checked_rate(sample_rate)
        self.hop_length = self.window_length = hop_length

    def core_input(self, wave: Tensor) -> Tensor:
        """Whole utterances with zeros up to whole hops: (B, N) -> (B, 1, N')."""
        return F.pad(wave, (0, -wave.shape[1] % self.hop_length))[:, None]

    def spectra(self, wave: Tensor) -> None:
        """None: losses see the waveform alone."""

    def estimate(self, wave: Tensor, masks: Callable[[Tensor], Tensor] | None = None) -> tuple[Tensor, None]:
        """For losses: the enhanced waveform (B, N). Raises `UserError` for masks: there is no spectrum."""
        if masks:
            raise UserError("training/masks: spectrum masks need a spectral model; set training/masks=none")
        return self._enhance_whole(wave)[0], None

    def _enhance_whole(self, wave: Tensor) -> tuple[Tensor, State]:
        enhanced, core_state = self.core(self.core_input(wave))
        return enhanced[:, 0, : wave.shape[1]], {"core": core_state}

    def _enhance_chunk(self, wave: Tensor, state: State) -> tuple[Tensor, State]:
        enhanced, core_state = self.core(wave[:, None], state["core"])
        return enhanced[:, 0], {"core": core_state}
