"""The waveform interface that all systems share: `enhanced, state = enhancer(wave, state)`."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from gtcrn.dsp.spectra import irfft, rfft
from gtcrn.dsp.stft import Frames
from gtcrn.errors import UserError
from gtcrn.streaming import Stateful
from gtcrn.streaming.state import State

PADDINGS = ("zeros", "reflect", "none")
SAMPLE_RATES = 1000, 768000  # Hz, the lowest and the highest
MAX_LAYERS = 32  # blocks or layers of one kind


class StreamingModel(Stateful):
    """A whole model, the only level at which `state=None` means "from the beginning"."""

    def initial_state(self, batch_size: int) -> State:
        """Return the state in which a stream begins. Raises `UserError` if the model looks ahead."""
        self.require_causal()
        return super().initial_state(batch_size)

    def start(self, batch_size: int, state: State | None) -> State:
        """Return `state`, or zeros if it is None: a model that looks ahead takes whole utterances alone."""
        if state is None:
            return super().initial_state(batch_size)
        self.require_causal()
        return state


def checked_rate(sample_rate: int) -> int:
    """Return the sample rate in Hz. Raises `UserError` if it lies outside `SAMPLE_RATES`."""
    lowest, highest = SAMPLE_RATES
    if not lowest <= sample_rate <= highest:
        raise UserError(f"model.sample_rate={sample_rate}: must lie between {lowest} and {highest} Hz")
    return sample_rate


class Enhancer(StreamingModel):
    """A model that maps noisy to enhanced waveforms, (B, N) float32 in [-1, 1] at `sample_rate`.

    core: the network, without the analysis of samples before it and the synthesis after it.
    sample_rate: in Hz. hop_length: in samples; a stream takes multiples of it.
    window_length: samples that one step of the core sees at a time, at least a hop.
    latency: samples by which the streamed output is later than the whole-utterance output.
    input_level: level in dBFS at which it was trained, as the RMS of noisy speech where speech is active; None if
        it is not known.
    """

    core: StreamingModel
    sample_rate: int
    hop_length: int
    window_length: int
    latency: int
    input_level: float | None = None

    def forward(self, wave: Tensor, state: State | None = None) -> tuple[Tensor, State | None]:
        """Enhance whole utterances (B, N), or the next chunk of a stream.

        Without a state, the waves are whole utterances of any N, and the output is aligned with the input. The
        returned state is that of the stream after the utterance and the hops of zeros that flush it, None if
        the model looks ahead.

        With a state, from `initial_state` or from the last call, N is a multiple of `hop_length`. The output is the
        same signal, later by `latency` samples.

        Raises `UserError` for a wrong shape or chunk length, and if a model that looks ahead is to stream.
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
        """Return the enhanced waveform (B, N) of whole utterances, and its spectrum (B, 2, T, F) or None, for losses.

        masks: applied to the noisy spectrum before the core, (B, 2, T, F) -> (B, 2, T, F).
        """
        raise NotImplementedError

    def spectra(self, wave: Tensor) -> Tensor | None:
        """Return the spectrum of whole utterances (B, N) that losses compare with that of `estimate`, or None."""
        raise NotImplementedError

    def core_input(self, wave: Tensor) -> Tensor:
        """Return the input (B, C, T, …) of the core for whole utterances (B, N), with time in dimension 2."""
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
    """An enhancer of frames: framing, a core that maps frames to frames of the same shape, and overlap-add.

    padding: continues a whole utterance beyond its ends. `zeros` is what a stream has, so both give the same
    samples; `reflect` mirrors n_fft - hop samples at either end, as torch.stft(center=True) does and as the
    published scores of the GTCRN family were made; `none` takes whole frames of the signal alone, as the scores of
    DTLN were made: fewer frames overlap at its ends, which fade.
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
        """Return zeros: {"analysis": (B, n_fft - hop), "core": nested, "synthesis": (B, n_fft - hop)}."""
        past = self.framing.initial_state(batch_size)
        return {"analysis": past, "core": self.core.initial_state(batch_size), "synthesis": past}

    def core_input(self, wave: Tensor) -> Tensor:
        """Return the frames of whole utterances: (B, N) -> (B, C, T, F)."""
        past, padded = self._pad(wave)
        return self.framing.analysis(padded, past)[0]

    def waveform(self, frames: Tensor, length: int) -> Tensor:
        """Return the waves of frames, as the inverse of `core_input`: (B, C, T, F) -> (B, length)."""
        return self._synthesise(frames, length)[0]

    def spectra(self, wave: Tensor) -> Tensor | None:
        """Return None, since losses compare the waveform alone."""
        return None

    def estimate(self, wave: Tensor, masks: Callable[[Tensor], Tensor] | None = None) -> tuple[Tensor, Tensor | None]:
        """Return the enhanced waveform (B, N) for losses, and no spectrum.

        masks: applied to the spectrum of the noisy frames first, (B, 2, T, F) -> (B, 2, T, F).
        """
        noisy = self.core_input(wave)
        frames, _ = self.core(irfft(masks(rfft(noisy))) if masks else noisy)
        return self.waveform(frames, wave.shape[1]), None

    def _synthesise(self, frames: Tensor, length: int) -> tuple[Tensor, Tensor]:
        """Return the wave (B, length) of frames (B, C, T, F), aligned with the input, and the stream's next overlap."""
        wave, overlap = self.framing.synthesis(frames, self.framing.initial_state(frames.shape[0]))
        if self.padding == "none":
            wave = torch.cat([wave, overlap], dim=1)
            return F.pad(wave, (0, length - wave.shape[1])), overlap
        # with reflect, nothing overlaps the end of the last frame; dividing by the sum of the windows that do reach
        # there makes up for the missing one, as torch.istft does
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
        """Return the samples (B, n_fft - hop) before waves (B, N), and the waves padded at their end to whole hops."""
        delay, hop, length = self.framing.delay, self.hop_length, wave.shape[1]
        if self.padding == "zeros":
            return self.framing.initial_state(wave.shape[0]), F.pad(wave, (0, delay + -(length + delay) % hop))
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
        whole_hops = padded[:, : padded.shape[1] - (length + delay) % hop]
        return whole_hops[:, :delay], whole_hops[:, delay:]


class SpectralEnhancer(FrameEnhancer):
    """An enhancer of spectra: STFT, a core that maps spectra (B, 2, T, F) to spectra, and inverse STFT."""

    def spectra(self, wave: Tensor) -> Tensor:
        """Return the spectrum of whole utterances as the core sees it: (B, N) -> (B, 2, T, F)."""
        return self.core_input(wave)

    def estimate(self, wave: Tensor, masks: Callable[[Tensor], Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """Return the enhanced waveform (B, N) and the core's own spectrum (B, 2, T, F), for losses.

        masks: applied to the noisy spectrum first, (B, 2, T, F) -> (B, 2, T, F).
        """
        noisy = self.spectra(wave)
        spec, _ = self.core(masks(noisy) if masks else noisy)
        return self.waveform(spec, wave.shape[1]), spec


class WaveEnhancer(Enhancer):
    """An enhancer of samples, whose causal core maps (B, 1, N) to (B, 1, N) for N a multiple of `hop_length`.

    Whole utterances are continued by zeros beyond their ends.
    """

    latency = 0
    padding = "zeros"

    def __init__(self, core: StreamingModel, sample_rate: int, hop_length: int):
        super().__init__()
        self.core = core
        self.sample_rate = checked_rate(sample_rate)
        self.hop_length = self.window_length = hop_length

    def core_input(self, wave: Tensor) -> Tensor:
        """Return whole utterances with zeros up to whole hops: (B, N) -> (B, 1, N')."""
        return F.pad(wave, (0, -wave.shape[1] % self.hop_length))[:, None]

    def spectra(self, wave: Tensor) -> None:
        """Return None, since losses compare the waveform alone."""

    def estimate(self, wave: Tensor, masks: Callable[[Tensor], Tensor] | None = None) -> tuple[Tensor, None]:
        """Return the enhanced waveform (B, N) for losses. Raises `UserError` for masks, since there is no spectrum."""
        if masks:
            raise UserError("training/masks: spectrum masks need a spectral model; set training/masks=none")
        return self._enhance_whole(wave)[0], None

    def _enhance_whole(self, wave: Tensor) -> tuple[Tensor, State]:
        enhanced, core_state = self.core(self.core_input(wave))
        return enhanced[:, 0, : wave.shape[1]], {"core": core_state}

    def _enhance_chunk(self, wave: Tensor, state: State) -> tuple[Tensor, State]:
        enhanced, core_state = self.core(wave[:, None], state["core"])
        return enhanced[:, 0], {"core": core_state}
