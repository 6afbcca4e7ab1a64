"""Loss terms that follow what listeners are asked: quality as PESQ predicts it, intelligibility as STOI does.

Both measures are made for signals of several seconds and are computed from the waveform, at 16 kHz.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from gtcrn.errors import UserError
from gtcrn.losses.loss import Signals, Term

_RATE = 16000  # Hz
_SILENCE = 1e-6  # mean square, -60 dBFS: a quieter target has no quality to predict
_SHORTEST = 8000  # samples; shorter signals are filled up with silence, since STOI compares segments of 0.42 s

# The 49 bands of ITU-T P.862 at 16 kHz, lowest first: widths in Hz and in Bark, hearing thresholds in dB.
_WIDTHS_HZ = (
    *(15.7, 31.8, 32.2, 32.7, 33.1, 33.6, 34.1, 34.5, 35.0, 35.5, 36.0, 36.5, 37.0, 37.5, 40.3, 42.3, 46.0, 51.3),
    *(55.0, 56.8, 58.7, 62.4, 64.8, 69.2, 76.7, 84.0, 90.8, 97.9, 103.3, 107.8, 113.6, 121.5, 130.4, 143.4, 158.5),
    *(176.9, 198.3, 219.5, 240.6, 268.7, 306.1, 349.9, 398.7, 454.7, 506.8, 564.9, 637.3, 794.7, 931.1),
)
_WIDTHS_BARK = (
    *(0.157, 0.318, 0.322, 0.327, 0.331, 0.336, 0.341, 0.345, 0.35, 0.355, 0.36, 0.365, 0.37, 0.375, 0.38, 0.385),
    *(0.39, 0.395, 0.4, 0.406, 0.411, 0.416, 0.422, 0.427, 0.433, 0.439, 0.444, 0.45, 0.456, 0.462, 0.468, 0.474),
    *(0.48, 0.486, 0.492, 0.498, 0.504, 0.511, 0.517, 0.524, 0.53, 0.537, 0.544, 0.55, 0.557, 0.564, 0.571, 0.578),
    0.585,
)
_THRESHOLDS_DB = (
    *(77.1, 63.9, 48.5, 36.9, 30.7, 25.9, 20.2, 16.6, 12.5, 9.9, 6.9, 4.9, 2.8, 1.0, -0.1, -1.4, -2.5, -3.4, -4.1),
    *(-4.8, -5.3, -5.7, -5.9, -6.0, -6.0, -6.0, -6.0, -5.8, -5.4, -5.1, -4.7, -4.3, -4.0, -3.6, -3.3, -3.1, -3.0),
    *(-3.0, -2.9, -2.8, -2.8, -2.8, -2.9, -3.2, -3.7, -4.3, -4.4, -3.8, -2.7),
)


class _SpeechTerm(Term):
    """A term on waveforms at 16 kHz, whose mean is over those items of a batch in which there is speech.

    Raises UserError for another rate.
    """

    def __init__(self, weight: float, sample_rate: int):
        super().__init__(weight)
        if sample_rate != _RATE:
            raise UserError(
                f"sample_rate={sample_rate} of the loss term {type(self).__name__}: it is defined at {_RATE} Hz alone"
            )

    def forward(self, estimate: Signals, target: Signals) -> Tensor:
        speech = target.wave.square().mean(dim=1) > _SILENCE
        lacking = max(0, _SHORTEST - target.wave.shape[1])
        values = self.distances(F.pad(estimate.wave, (0, lacking)), F.pad(target.wave, (0, lacking)))
        return torch.where(speech, values, 0.0).sum() / speech.sum().clamp(min=1)

    def distances(self, estimate: Tensor, target: Tensor) -> Tensor:
        """Return the value (B,) of each estimate and target (B, N)."""
        raise NotImplementedError


class PESQ(_SpeechTerm):
    """The disturbance by which wideband PESQ falls below 4.5, a differentiable form of ITU-T P.862.2.

    It follows the standard from the alignment of levels on: bands in Bark, compensation of the linear frequency
    response and of gains, Zwicker's loudness, symmetric and asymmetric disturbance, and their norms over bands and
    frames (cf. Martín-Doñas et al., A deep learning loss function based on the perceptual evaluation of the speech
    quality, 2018). It leaves out what training does not need: the alignment in time, the repair of bad intervals, and
    the weight of the end of long recordings. `mos` is what the measure makes of it.
    """

    window: Tensor
    bands: Tensor
    bark: Tensor
    threshold: Tensor
    exponent: Tensor

    def __init__(self, weight: float, sample_rate: int = _RATE):
        super().__init__(weight, sample_rate)
        edges = torch.tensor((0.0, *_WIDTHS_HZ), dtype=torch.float64).cumsum(0)
        bins = torch.arange(257) * (_RATE / 512)
        member = ((edges[:-1, None] <= bins) & (bins < edges[1:, None])).double()  # (bands, F)
        member[:, 0] = 0  # the standard leaves out the offset
        hertz, bark = torch.tensor(_WIDTHS_HZ).double(), torch.tensor(_WIDTHS_BARK).double()
        density = hertz / bark / member.sum(dim=1).clamp(min=1)  # power per Bark
        centres = bark.cumsum(0) - bark / 2
        for name, table in {
            "window": torch.hann_window(512, dtype=torch.float64),
            "bands": 6.910853e-6 * (density[:, None] * member).T,
            "bark": bark,
            "threshold": 10 ** (torch.tensor(_THRESHOLDS_DB).double() / 10),
            "exponent": 0.23 * (6 / (centres + 2)).clamp(1, 2) ** 0.15,
        }.items():
            self.register_buffer(name, table.float(), persistent=False)

    def mos(self, estimate: Tensor, target: Tensor) -> Tensor:
        """Return PESQ (B,) of waves (B, N), on the scale of P.862.2, about 1 to 4.6."""
        return 0.999 + 4 / (1 + torch.exp(-1.3669 * (4.5 - self.distances(estimate, target)) + 3.8224))

    def distances(self, estimate: Tensor, target: Tensor) -> Tensor:
        degraded, reference = self._bark_power(estimate), self._bark_power(target)  # (B, T, bands)
        audible = (self._audible(reference, 100) > 1e7)[..., None]

        # what a linear filter changed, which listeners mind little, is given to the reference
        means = [
            torch.where(audible & (power > 100 * self.threshold), power, 0.0).mean(dim=1, keepdim=True) + 1000
            for power in (degraded, reference)
        ]
        reference = (means[0] / means[1]).clamp(0.01, 100) * reference
        # and changes of the gain, smoothed over frames, to the degraded
        gain = (self._audible(reference, 1) + 5e3) / (self._audible(degraded, 1) + 5e3)
        gain = torch.cat([gain[:, :1], 0.8 * gain[:, 1:] + 0.2 * gain[:, :-1]], dim=1).clamp(3e-4, 5)
        degraded = gain[..., None] * degraded

        loudness, wanted = self._loudness(degraded), self._loudness(reference)
        difference = loudness - wanted
        disturbance = F.relu(difference.abs() - 0.25 * torch.minimum(loudness, wanted))
        # noise that is added disturbs more than speech that is lacking
        asymmetry = ((degraded + 50) / (reference + 50)) ** 1.2
        asymmetry = torch.where(asymmetry < 3, 0.0, asymmetry.clamp(max=12))

        total = self.bark[1:].sum()
        weighted = (disturbance * self.bark)[..., 1:]
        symmetric = (weighted.square().sum(dim=-1) / total + 1e-12).sqrt() * total
        asymmetric = (weighted * asymmetry[..., 1:]).sum(dim=-1)
        emphasis = ((self._audible(reference, 1) + 1e5) / 1e7) ** 0.04
        frames = torch.stack([symmetric, asymmetric], dim=1) / emphasis[:, None]
        over_time = _norms_over_time(frames.clamp(max=45))  # (B, 2)
        return 0.1 * over_time[:, 0] + 0.0309 * over_time[:, 1]

    def _bark_power(self, wave: Tensor) -> Tensor:
        """Return the power in bands (B, T, bands) of waves (B, N), at the level and through the filter of P.862.2."""
        count = wave.shape[1]
        spectrum = torch.fft.rfft(wave, 2 * count)  # twice as long, so that the filter's end does not wrap around
        frequency = torch.arange(spectrum.shape[1], device=wave.device) * (_RATE / 2 / count)
        band = (frequency >= 325) & (frequency <= 3250)
        power = spectrum[:, band].abs().square().sum(dim=1, keepdim=True) / count / (count + 5120) / 1.04684
        delay = torch.exp(-2j * math.pi / _RATE * frequency)  # z^-1
        response = 2.740826 * (1 - delay) ** 2 / (1 - 1.9444777 * delay + 0.94597794 * delay**2)
        wave = torch.fft.irfft(spectrum * response / (power / 1e7 + 1e-12).sqrt(), 2 * count)[:, :count]
        frames = torch.stft(wave, 512, 256, 512, self.window, center=False, return_complex=True)
        return torch.view_as_real(frames).square().sum(dim=-1).mT @ self.bands

    def _audible(self, power: Tensor, factor: float) -> Tensor:
        """Return the power (B, T) of the bands (B, T, bands) that exceed `factor` times the threshold of hearing."""
        return torch.where(power > factor * self.threshold, power, 0.0)[..., 1:].sum(dim=-1)

    def _loudness(self, power: Tensor) -> Tensor:
        """Return the loudness (B, T, bands), in sone per Bark, of powers, by Zwicker's law."""
        loudness = (0.5 + 0.5 * power / self.threshold) ** self.exponent - 1
        loudness = 0.1866055 * (2 * self.threshold) ** self.exponent * loudness
        return torch.where(power > self.threshold, loudness, 0.0)


def _norms_over_time(frames: Tensor) -> Tensor:
    """Return PESQ's mean (B, C) of disturbances (B, C, T): bad moments weigh more than their share.

    The mean is of the 6th power over 20 frames, which overlap by half, and of the square over those intervals.
    """
    size = min(20, frames.shape[-1])
    intervals = frames.unfold(-1, size, max(1, size // 2))
    # the eighth power of the smallest disturbance must not vanish in float32, nor its root have an infinite slope
    return ((intervals.pow(6).mean(dim=-1) + 1e-12) ** (1 / 3)).mean(dim=-1).sqrt()


class STOI(_SpeechTerm):
    """The part of the short-time objective intelligibility that is lacking: 1 - STOI, or 1 - ESTOI with `extended`.

    Envelopes in 15 third octaves from 150 Hz are correlated with those of the target over 384 ms, where the target is
    within 40 dB of its loudest frame (Taal et al., An algorithm for intelligibility prediction of time-frequency
    weighted noisy speech, 2011; Jensen and Taal, An algorithm for predicting the intelligibility of speech masked by
    modulated noise maskers, 2016). The published measure resamples to 10 kHz; here its windows are taken at 16 kHz, and
    pauses are cut from the envelopes and not from the waves.
    """

    segment, step = 30, 4  # frames; the published measure takes every segment, of which neighbours are nearly equal

    window: Tensor
    bands: Tensor

    def __init__(self, weight: float, extended: bool = False, sample_rate: int = _RATE):
        super().__init__(weight, sample_rate)
        self.extended = extended
        centres = 150 * 2 ** (torch.arange(15, dtype=torch.float64) / 3)
        bins = torch.arange(411) * (_RATE / 820)
        edges = (bins[:, None] - centres * 2 ** torch.tensor([-1 / 6, 1 / 6], dtype=torch.float64)[:, None, None]).abs()
        low, high = edges.argmin(dim=1)  # (15,) each: the nearest bins
        index = torch.arange(411)[:, None]
        self.register_buffer("bands", ((low <= index) & (index < high)).float(), persistent=False)
        self.register_buffer("window", torch.hann_window(410), persistent=False)

    def distances(self, estimate: Tensor, target: Tensor) -> Tensor:
        wanted, level = self._envelopes(target)
        envelopes, _ = self._envelopes(estimate)
        heard = level > level.amax(dim=1, keepdim=True) - 40
        # frames with speech come first, in order; segments that reach beyond them do not count
        order = (~heard).int().argsort(dim=1, stable=True)[..., None].expand_as(wanted)
        wanted, envelopes = (x.gather(1, order).unfold(1, self.segment, self.step) for x in (wanted, envelopes))
        first = self.step * torch.arange(wanted.shape[1], device=wanted.device)  # frames of the segments (B, S, 15, 30)
        valid = first <= (heard.sum(dim=1, keepdim=True) - self.segment)  # (B, S)
        if self.extended:
            score = (_normalised(_normalised(wanted, -1), -2) * _normalised(_normalised(envelopes, -1), -2)).sum(dim=-2)
        else:
            scale = wanted.square().sum(dim=-1, keepdim=True) / (envelopes.square().sum(dim=-1, keepdim=True) + 1e-10)
            clipped = torch.minimum((scale + 1e-10).sqrt() * envelopes, (1 + 10 ** (15 / 20)) * wanted)
            score = (_normalised(wanted, -1) * _normalised(clipped, -1)).sum(dim=-1)
        score = torch.where(valid, score.mean(dim=-1), 0.0).sum(dim=1)
        return torch.where(valid.any(dim=1), 1 - score / valid.sum(dim=1).clamp(min=1), 0.0)

    def _envelopes(self, wave: Tensor) -> tuple[Tensor, Tensor]:
        """Return the envelopes (B, T, 15) of the bands of waves (B, N), and the level (B, T) of the frames in dB."""
        frames = torch.stft(wave, 820, 205, 410, self.window, center=False, return_complex=True)
        power = torch.view_as_real(frames).square().sum(dim=-1).mT
        return (power @ self.bands + 1e-10).sqrt(), 10 * torch.log10(power.sum(dim=-1) + 1e-12)


def _normalised(x: Tensor, dim: int) -> Tensor:
    """Return x without its mean along a dimension, and with the norm 1 there."""
    x = x - x.mean(dim=dim, keepdim=True)
    return x / (x.square().sum(dim=dim, keepdim=True) + 1e-10).sqrt()
