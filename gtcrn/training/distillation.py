"""Distillation: a small student learns from clean speech, and from the output and features of a larger teacher."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gtcrn.errors import UserError
from gtcrn.losses import Loss, Signals
from gtcrn.models.enhancer import Enhancer, SpectralEnhancer
from gtcrn.models.pretrained import load
from gtcrn.training.freezing import submodule
from gtcrn.training.supervised import SupervisedModule

MATCHES = ("l2", "attention")
_PROBE_HOPS = 101  # hops of a signal that reveals the layers' time axis: unlike any usual number of channels or bands


class FeatureMatch(nn.Module):
    """A distance between the outputs of a layer of the student and a layer of the teacher.

    student, teacher: names of submodules of the cores. weight: factor of the distance in the total, at least 0.
    match: `l2`, the mean squared difference after a learned 1×1 projection of the student's channels to the
    teacher's; or `attention` (Zagoruyko and Komodakis, Paying more attention to attention, 2017), the
    squared difference, 0 to 2, of the sums over channels of squared activations, each map scaled to unit length.

    Both are (B, C, T, F) with the same T; where F differs, the student's is interpolated.
    """

    def __init__(self, student: str, teacher: str, weight: float = 1.0, match: str = "l2"):
        super().__init__()
        if not 0 <= weight < float("inf"):
            raise UserError(f"training.features: weight={weight} of {student}: must be a number of at least 0")
        if match not in MATCHES:
            raise UserError(f"training.features: match={match} of {student}: must be one of {', '.join(MATCHES)}")
        self.student, self.teacher = student, teacher
        self.weight = weight
        self.match = match
        self.projection = nn.Identity()

    def connect(self, student_channels: int, teacher_channels: int) -> None:
        """Make the learned projection for layers of this many channels, if `match` needs one."""
        if self.match == "l2":
            self.projection = nn.Conv2d(student_channels, teacher_channels, 1)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the distance of (B, C, T, F) and (B, C', T, F'), a scalar, always computed in float32."""
        with torch.autocast(student.device.type, enabled=False):
            student, teacher = student.float(), teacher.float()
            if self.match == "l2":
                return F.mse_loss(_with_bands(self.projection(student), teacher), teacher)
            student, teacher = (x.square().sum(dim=1, keepdim=True) for x in (student, teacher))
            maps = [F.normalize(x.flatten(1), dim=1) for x in (_with_bands(student, teacher), teacher)]
            return (maps[0] - maps[1]).square().sum(dim=1).mean()


class Layers:
    """The outputs of some layers of an enhancer's core, as feature maps (B, C, T, F).

    names: submodules of the core. Raises `UserError` if one does not exist, or its output is not (B, C, T, F),
    (B, C, T) or (B, T, C), with T frames as in the core's input. Of (output, state) the output counts, of a list the
    last element.
    """

    def __init__(self, enhancer: Enhancer, names: Iterable[str], wave: Tensor):
        """Run `wave`, (2, N), to learn the layers' shapes; no other dimension should equal its number of frames."""
        self.layers = {name: submodule(enhancer.core, name, "training.features") for name in names}
        self.frames = enhancer.core_input(wave).shape[2]
        training = enhancer.training
        with torch.no_grad(), self._outputs() as outputs:
            enhancer.eval().estimate(wave)
        enhancer.train(training)
        self._time = {name: _time_dimension(name, outputs.get(name), self.frames) for name in self.layers}
        self.channels = {name: _map(output, self._time[name]).shape[1] for name, output in outputs.items()}

    @contextmanager
    def maps(self) -> Iterator[dict[str, Tensor]]:
        """Yield a dict that the forward pass within fills with the maps by name; a repeated layer leaves its last."""
        maps: dict[str, Tensor] = {}
        with self._outputs() as outputs:
            yield maps
        for name, output in outputs.items():
            maps[name] = _map(output, self._time[name])

    @contextmanager
    def _outputs(self) -> Iterator[dict[str, Tensor]]:
        outputs: dict[str, Tensor] = {}

        def keep(name: str, layer: nn.Module, inputs: tuple, output: Any) -> None:
            output = output[0] if isinstance(output, tuple) else output
            outputs[name] = output[-1] if isinstance(output, list) else output

        handles = [layer.register_forward_hook(partial(keep, name)) for name, layer in self.layers.items()]
        try:
            yield outputs
        finally:
            for handle in handles:
                handle.remove()


def _time_dimension(name: str, output: Tensor | None, frames: int) -> int:
    if output is None:
        raise UserError(f"training.features: {name!r} is not run as a whole; name a part within it")
    for dimension in {4: (2,), 3: (2, 1)}.get(output.dim(), ()):
        if output.shape[0] == 2 and output.shape[dimension] == frames:
            return dimension
    raise UserError(
        f"training.features: {name!r} puts out {tuple(output.shape)} for 2 signals of {frames} frames; "
        "name a layer of (B, C, T, F), (B, C, T) or (B, T, C)"
    )


def _map(output: Tensor, time: int) -> Tensor:
    """Return the output as (B, C, T, F)."""
    if output.dim() == 4:
        return output
    return (output.transpose(1, 2) if time == 1 else output)[..., None]


def _with_bands(features: Tensor, like: Tensor) -> Tensor:
    """Interpolate (B, C, T, F) to the F of `like`."""
    if features.shape[3] == like.shape[3]:
        return features
    return F.interpolate(features, size=like.shape[2:], mode="bilinear")


class DistillationModule(SupervisedModule):
    """Training that minimises

        supervised_weight · loss(student, clean) + output_weight · loss(student, teacher) + Σ weight · feature match

    teacher: a checkpoint that `gtcrn.load` reads, of the student's sample rate. It may look ahead even if the student
    must not, gets the student's input without masks, and is not saved with the student. trust: see `gtcrn.load`.
    features: feature matches by name, in the order they are logged. options: those of SupervisedModule.
    """

    def __init__(
        self,
        enhancer: Enhancer,
        loss: Loss,
        teacher: str | None = None,
        supervised_weight: float = 1.0,
        output_weight: float = 1.0,
        features: Mapping[str, FeatureMatch] | None = None,
        trust: bool = False,
        **options: Any,
    ):
        super().__init__(enhancer, loss, **options)
        if not teacher:
            raise UserError("training.teacher is not set: name the teacher's checkpoint, training.teacher=PATH")
        for key, weight in {"supervised_weight": supervised_weight, "output_weight": output_weight}.items():
            if not 0 <= weight < float("inf"):
                raise UserError(f"training.{key}={weight}: must be a number of at least 0")
        self.supervised_weight = supervised_weight
        self.output_weight = output_weight
        self.features = nn.ModuleDict(dict(features or {}))
        if not (output_weight or any(feature.weight for feature in self.features.values())):
            raise UserError("training: output_weight and all features' weights are 0, so nothing is distilled")
        # padded at the ends like the student; a tuple keeps it from being a submodule of this module
        self._teacher = (load(teacher, enhancer.padding, trust).requires_grad_(False),)
        if self.teacher.sample_rate != enhancer.sample_rate:
            raise UserError(
                f"training.teacher={teacher}: is for {self.teacher.sample_rate} Hz, but the student "
                f"for {enhancer.sample_rate} Hz; take a teacher of the same rate"
            )
        # where the frames differ spectra can't be compared, so the teacher's waveform is analysed like the target's
        self._same_frames = all(isinstance(model, SpectralEnhancer) for model in (self.teacher, enhancer)) and (
            self.teacher.window_length,
            self.teacher.hop_length,
        ) == (enhancer.window_length, enhancer.hop_length)
        noisy = torch.zeros(2, _PROBE_HOPS * enhancer.hop_length)
        self._student_layers = Layers(enhancer, [match.student for match in self.features.values()], noisy)
        self._teacher_layers = Layers(self.teacher, [match.teacher for match in self.features.values()], noisy)
        self._student_maps: dict[str, Tensor] = {}
        if features and self._student_layers.frames != self._teacher_layers.frames:
            raise UserError(
                f"training.features: {self._student_layers.frames} frames of the student last as long as "
                f"{self._teacher_layers.frames} of the teacher: take one of the same hop_length and n_fft, "
                "or training.features=null"
            )
        for match in self.features.values():
            match.connect(self._student_layers.channels[match.student], self._teacher_layers.channels[match.teacher])

    @property
    def teacher(self) -> Enhancer:
        return self._teacher[0]

    def check_trainer(self, trainer: pl.Trainer) -> None:
        if self.compile_mode and self.features:
            raise UserError(
                f"training.compile={self.compile_mode} with training.features: compiled code does not tell what its "
                "layers give; set training.compile=null or training.features=null"
            )
        super().check_trainer(trainer)

    def on_fit_start(self) -> None:
        super().on_fit_start()
        self.teacher.to(self.device)

    def estimate(self, noisy: Tensor) -> Signals:
        with self._student_layers.maps() as self._student_maps:
            return super().estimate(noisy)

    def training_loss(self, estimate: Signals, batch: dict) -> tuple[Tensor, dict[str, Tensor]]:
        supervised, terms = super().training_loss(estimate, batch)
        target, teacher_maps = self._teach(batch["noisy"])
        output, _ = self.loss(estimate, target)
        total = self.supervised_weight * supervised + self.output_weight * output
        terms = terms | {"output": output.detach()}
        student_maps, self._student_maps = self._student_maps, {}  # they keep the autograd graph alive
        for name, match in self.features.items():
            distance = match(student_maps[match.student], teacher_maps[match.teacher])
            total = total + match.weight * distance
            terms[f"feature_{name}"] = distance.detach()
        return total, terms

    @torch.no_grad()
    def _teach(self, noisy: Tensor) -> tuple[Signals, dict[str, Tensor]]:
        """Return the teacher's output for (B, N), which is the target, and its feature maps."""
        with self._teacher_layers.maps() as maps:
            wave, spec = self.teacher.estimate(noisy)
        return Signals(wave, spec) if self._same_frames else self.target(wave), maps
