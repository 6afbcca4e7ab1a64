"""Checkpoints of this framework and of the models' authors, recognised by their content, never by their name."""

from __future__ import annotations

import hashlib
import importlib
import logging
import math
import re
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import UnionType
from typing import Any, NamedTuple, get_args, get_type_hints

import torch
from torch import Tensor

from gtcrn.errors import UserError
from gtcrn.models import dtln, fastenhancer, gtcrn, keras, light_v3, micro, timbre, ulunas
from gtcrn.models.enhancer import Enhancer
from gtcrn.models.reparametrisation import remove_reparametrisations
from gtcrn.weights import resolve

log = logging.getLogger(__name__)

# the only builders that a checkpoint may name without being trusted
_SYSTEMS = gtcrn, light_v3, micro, ulunas, dtln, fastenhancer, timbre
BUILDERS = {f"{system.__name__}.build": system.build for system in _SYSTEMS}
RECORD = "gtcrn"  # key of this framework's checkpoints: {"model": {"build": dotted name, "knobs": {…}}}
CORE_PREFIX = "enhancer.core."  # of the core's tensors among a LightningModule's
EXPECTED = "a PyTorch checkpoint (.ckpt, .tar, .pth) or DTLN's Keras weights (.h5)"
_HEAD = 512  # first bytes, by which the type of a file is recognised
_FOREIGN = (
    (4, b"TFL3", "a TFLite file"),
    (0, b"\xff\xd8\xff", "a JPEG picture"),
    (0, b"\x89PNG", "a PNG picture"),
    (0, b"RIFF", "a WAV file or another RIFF"),
    (0, b"fLaC", "a FLAC file"),
    (0, b"OggS", "an Ogg file"),
    (0, b"\x1f\x8b", "a gzip archive"),
    (0, b"\x93NUMPY", "a NumPy array"),
    (257, b"ustar", "a tar archive of files"),
    (8, b'{"', "a safetensors file"),
)

StateDict = dict[str, Tensor]

_ULUNAS_FIRST = ("ops.1", "pconv1.0", "pconv.0", "pconv1.0", "pconv.0")
# authors' and own names of a block's units, and the numbers of the parts in the authors'
_ULUNAS_UNITS = (("ops", "full", 1), ("pconv", "point", 0), ("pconv1", "point1", 0), ("dconv", "depth", 1))


class Layout(NamedTuple):
    """The conversions of a tensor whose layout differs in the authors' code."""

    from_official: Callable[[Tensor], Tensor]
    to_official: Callable[[Tensor], Tensor]


TRANSPOSED = Layout(Tensor.t, Tensor.t)
POINTWISE = Layout(lambda kernel: kernel[..., 0], lambda matrix: matrix[..., None])  # a convolution of width 1
VECTOR = Layout(Tensor.flatten, lambda vector: vector[None, None])
OVER_FREQUENCY = Layout(lambda kernel: kernel.unsqueeze(2), lambda kernel: kernel.squeeze(2))
SCALAR = Layout(lambda vector: vector[0], lambda scalar: scalar[None])
# of two channels in two steps of a stride: (C', stride · 2, 2), where bins within a step are channels too
STRIDED = Layout(
    lambda kernel: kernel.unflatten(1, (-1, 2)).permute(0, 2, 3, 1).flatten(2).unsqueeze(2),
    lambda kernel: kernel.squeeze(2).unflatten(2, (2, -1)).permute(0, 3, 1, 2).flatten(1, 2),
)


@dataclass(frozen=True)
class Published:
    """A published checkpoint format: how it is recognised, and how its keys and shapes are translated.

    signature: a key that only this system has. knobs: infers the arguments of `build` from the tensors' shapes.
    names: pairs of parts of keys, the authors' and this framework's, where {} stands for a number.
    layouts: of the tensors that are laid out otherwise, by a regular expression of the authors' keys.
    input_level: level in dBFS at which it was trained (see `Enhancer`). For VCTK-DEMAND it is the middle of what six
        of its training files measure (-19 to -26), for mixtures by the DNS Challenge's recipe the middle of the
        recipe's range. GTCRN was trained on either; they are 3 dB apart.
    """

    name: str
    core: type
    build: Callable[..., Enhancer]
    signature: str
    knobs: Callable[[StateDict], dict]
    names: tuple[tuple[str, str], ...]
    input_level: float
    layouts: dict[str, Layout] = field(default_factory=dict)

    def layout(self, key: str) -> Layout | None:
        """Return the layout of the authors' key, None if it is that of this framework."""
        return next((layout for keys, layout in self.layouts.items() if re.fullmatch(keys, key)), None)


def _gtcrn_knobs(state: StateDict) -> dict:
    bands, high_bins = state["erb.erb_fc.weight"].shape
    quarter = state["dpgrnn1.intra_ln.weight"].shape[0]
    # bands before the two halvings are 4 · quarter - 3; the rest of the spectrum is kept as bins
    low_bins = 4 * quarter - 3 - bands
    return {
        "channels": state["encoder.en_convs.0.conv.weight"].shape[0],
        "dpgrnn_count": _count(state, r"dpgrnn(\d+)\."),
        "hidden_size": state["dpgrnn1.intra_fc.weight"].shape[1],
        **_stft_sizes(low_bins, bands, high_bins),
    }


def _light_v3_knobs(state: StateDict) -> dict:
    high_bins, bands = state["erb.W_bm"].shape
    channels = state["enc.blocks.0.pw.weight"].shape[0]
    return {
        "width_mult": channels / light_v3.BASE_CHANNELS,
        "r": state["dp1.pre.weight"].shape[0],
        "use_two_dpgrnn": "dp2.pre.weight" in state,
        "rnn_bidirectional": "dp1.intra.weight_ih_l0_reverse" in state,
        # no tensor tells how many bins are kept: the published code has 65 of 257
        **_stft_sizes(65, bands, high_bins),
        "causal": False,  # the published code pads time symmetrically
    }


def _micro_knobs(state: StateDict) -> dict:
    bands, high_bins = state["erb.erb_fc.weight"].shape
    channels = state["encoder.en_convs.0.conv.weight"].shape[0]
    return {
        "channels": channels,
        "stacks": _count(state, r"gtcn(\d+)\."),
        "blocks": _count(state, r"gtcn1\.blocks\.(\d+)\."),
        "kernel": state["gtcn1.blocks.0.conv2.weight"].shape[2],
        "encoder_groups": channels // state["encoder.en_convs.2.depth_conv.weight"].shape[1],
        "decoder_groups": channels // state["decoder.de_convs.0.depth_conv.weight"].shape[1],
        "transposed": "decoder.de_convs.3.conv.weight" in state,
        "activation": "prelu" if "encoder.en_convs.0.act.weight" in state else "relu",
        # no tensor tells the dilations, which the published code doubles, nor how many bins are kept
        **_stft_sizes(65, bands, high_bins),
    }


def _dtln_knobs(state: StateDict) -> dict:
    n_fft = state["decoder_conv1.weight"].shape[0]
    return {
        "lstm_size": state["sep1.rnn1.weight_hh_l0"].shape[1],
        "layers": _count(state, r"sep1\.rnn(\d+)\."),
        "basis_size": state["decoder_conv1.weight"].shape[1],
        "norm_stft": "norm_stft.gamma" in state,
        "n_fft": n_fft,
        # no tensor tells these: every published frame lasts 32 ms and overlaps by three quarters
        "hop_length": n_fft // 4,
        "sample_rate": n_fft * 1000 // 32,
    }


def _fastenhancer_knobs(state: StateDict) -> dict:
    bands, bins = state["rf_pre.0.weight"].shape
    channels, phases, _ = state["enc_pre.0.weight"].shape
    stride = phases // 2
    n_fft = 2 * bins * stride
    # no tensor tells the rest: two of the published sizes have shorter hops, and those at 48 kHz longer frames
    fullband = n_fft > 512
    return {
        "channels": channels,
        "layers": _count(state, r"encoder\.(\d+)\."),
        "kernel": state["encoder.0.0.weight"].shape[2],
        "stride": stride,
        "blocks": _count(state, r"rf_block\.(\d+)\."),
        "block_channels": state["rf_pre.1.weight"].shape[0],
        "bands": bands,
        "trained_bands": fullband,
        "weight_norm": "dec_post.3.scale" in state,
        "batch_norm": "enc_pre.1.weight" in state,
        "n_fft": n_fft,
        "hop_length": {96: n_fft * 5 // 16, 128: n_fft * 25 // 128}.get(channels, n_fft // 2),
        "sample_rate": 48000 if fullband else 16000,
    }


def _ulunas_knobs(state: StateDict) -> dict:
    bands, high_bins = state["erb.erb_fc.weight"].shape
    # the first convolution of every block; its kind is as published, as is all else that the search found
    first = [state[f"encoder.en_convs.{i}.{name}.weight"] for i, name in enumerate(_ULUNAS_FIRST)]
    return {
        "channels": [len(weight) for weight in first],
        "dpgrnn_count": _count(state, r"dpgrnn\.(\d+)\."),
        **_stft_sizes(65, bands, high_bins),
    }


def _stft_sizes(low_bins: int, bands: int, high_bins: int) -> dict:
    n_fft = 2 * (low_bins + high_bins - 1)
    return {"erb_low_bins": low_bins, "erb_bands": bands, "n_fft": n_fft, "hop_length": n_fft // 2}


def _count(state: StateDict, pattern: str) -> int:
    return len({match[1] for key in state if (match := re.match(pattern, key))})


PUBLISHED = (
    Published(
        name="GTCRN",
        input_level=-22.0,
        core=gtcrn.GTCRN,
        build=gtcrn.build,
        signature="dpgrnn1.intra_rnn.rnn1.weight_ih_l0",
        knobs=_gtcrn_knobs,
        names=(("encoder.en_convs.", "encoder."), ("decoder.de_convs.", "decoder."), ("dpgrnn{}.", "dual_path.{}.")),
    ),
    Published(
        name="GTCRN-Light v3",
        input_level=-22.0,
        core=light_v3.LightV3,
        build=light_v3.build,
        signature="dp1.post2.weight",
        knobs=_light_v3_knobs,
        names=(
            ("erb.W_bm", "erb.erb_fc.weight"),
            ("erb.W_bs", "erb.ierb_fc.weight"),
            ("sfe.dw.", "features."),
            ("enc.blocks.", "encoder."),
            ("dec.blocks.", "decoder."),
            ("dp{}.", "dual_path.{}."),
        ),
        layouts={"erb.W_bm": TRANSPOSED, "erb.W_bs": TRANSPOSED},
    ),
    Published(
        name="GTCRN-Micro",
        input_level=-25.0,
        core=micro.Micro,
        build=micro.build,
        signature="gtcn1.blocks.0.conv2.weight",
        knobs=_micro_knobs,
        names=(
            ("sfe.depth_conv.", "features."),
            ("encoder.en_convs.", "encoder."),
            ("decoder.de_convs.", "decoder."),
            ("gtcn{}.blocks.", "dual_path.{}."),
            ("tra.depth_conv.", "tra.dw."),
            ("tra.point_conv.", "tra.pw."),
        ),
    ),
    Published(
        name="UL-UNAS",
        input_level=-25.0,
        core=ulunas.ULUNAS,
        build=ulunas.build,
        signature="encoder.en_convs.0.ops.3.affine_weight",
        knobs=_ulunas_knobs,
        names=(
            ("encoder.en_convs.", "encoder."),
            ("decoder.de_convs.", "decoder."),
            ("dpgrnn.", "dual_path."),
            *(
                (f"{authors}.{first + part}.", f"{own}.{name}.")
                for authors, own, first in _ULUNAS_UNITS
                for part, name in enumerate(("conv", "bn", "act", "attention"))
            ),
            ("pconv2.0.", "point2.conv."),
            ("pconv2.1.", "point2.bn."),
            ("pconv2.2.", "point2.attention."),
            ("ta_gru.", "tra.att_gru."),
            ("ta_fc.", "tra.att_fc."),
        ),
    ),
    Published(
        name="DTLN",
        input_level=-25.0,
        core=dtln.DTLN,
        build=dtln.build,
        signature="sep1.rnn1.weight_ih_l0",
        knobs=_dtln_knobs,
        names=(
            ("sep1.", "magnitude_separation."),
            ("sep2.", "basis_separation."),
            ("rnn{}.weight_ih_l0", "lstm.weight_ih_l{}"),
            ("rnn{}.weight_hh_l0", "lstm.weight_hh_l{}"),
            ("rnn{}.bias_ih_l0", "lstm.bias_ih_l{}"),
            ("rnn{}.bias_hh_l0", "lstm.bias_hh_l{}"),
            ("norm_stft.gamma", "magnitude_norm.weight"),
            ("norm_stft.beta", "magnitude_norm.bias"),
            ("encoder_conv1.", "encoder."),
            ("encoder_norm1.gamma", "basis_norm.weight"),
            ("encoder_norm1.beta", "basis_norm.bias"),
            ("decoder_conv1.", "decoder."),
        ),
        layouts={
            "norm_stft.gamma": VECTOR,
            "norm_stft.beta": VECTOR,
            "encoder_conv1.weight": POINTWISE,
            "encoder_norm1.gamma": VECTOR,
            "encoder_norm1.beta": VECTOR,
            "decoder_conv1.weight": POINTWISE,
        },
    ),
    Published(
        name="FastEnhancer",
        input_level=-22.0,
        core=fastenhancer.FastEnhancer,
        build=fastenhancer.build,
        signature="rf_pre.0.weight",
        knobs=_fastenhancer_knobs,
        names=(
            ("enc_pre.", "downsample."),
            ("rf_pre.", "to_bands."),
            ("rf_block.", "blocks."),
            ("rf_post.", "to_bins."),
            ("dec_post.3.scale", "upsample.3.parametrizations.weight.original0"),
            ("dec_post.3.weight", "upsample.3.parametrizations.weight.original1"),
            ("dec_post.", "upsample."),
        ),
        layouts={
            r"enc_pre\.0\.weight": STRIDED,
            r"(encoder\.\d+\.0|(decoder\.\d+|dec_post)\.[023]|rf_(pre|post)\.1)\.weight": OVER_FREQUENCY,
            r"dec_post\.3\.scale": SCALAR,
        },
    ),
)


class Checkpoint(NamedTuple):
    """The content of a checkpoint file, read once: a system, the function that builds it, and its weights.

    digest: SHA-256 of the file. knobs: arguments of `build`. weights: of the core, under this framework's names and as
    they were trained, that is with their reparametrisations. input_level: see `Enhancer`. record: what a training of
    this framework states in the file, empty for a published one. others: the file's tensors that are not the core's.
    """

    path: Path
    digest: str
    system: str
    build: Callable[..., Enhancer]
    knobs: dict
    weights: StateDict
    input_level: float | None
    record: dict
    others: StateDict

    def blank(self, padding: str | None = None) -> Enhancer:
        """Return the model that the weights belong to, without them.

        Raises `UserError` if the weights do not fit it, or if some are NaN or infinite.
        """
        knobs = self.knobs | ({"padding": padding} if padding else {})
        with torch.device("meta"):  # checked without memory first, whatever sizes the file asks for
            self._check(self._built(knobs).core.state_dict())
        return self._built(knobs)

    def _built(self, knobs: dict) -> Enhancer:
        try:
            _check_types(self.build, knobs)
            enhancer = self.build(**knobs)
        except UserError as error:
            raise UserError(f"checkpoint {self.path}: {error}") from error
        except Exception as error:  # damaged knobs may make a builder raise anything
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"checkpoint {self.path}: made by another version of this framework ({reason})") from error
        if not isinstance(enhancer, Enhancer):
            raise UserError(f"checkpoint {self.path}: asks for {self.system}, which builds no gtcrn.models.Enhancer")
        return enhancer

    def enhancer(self, padding: str | None = None) -> Enhancer:
        """Return the model with its weights, in evaluation mode."""
        enhancer = self.blank(padding)
        enhancer.core.load_state_dict(self.weights)
        enhancer.input_level = self.input_level
        return remove_reparametrisations(enhancer).eval()

    def _check(self, expected: StateDict) -> None:
        problems = [f"{key} is missing" for key in expected.keys() - self.weights.keys()]
        problems += [f"{key} is not used" for key in self.weights.keys() - expected.keys()]
        problems += [
            f"{key} is {tuple(self.weights[key].shape)}, expected {tuple(expected[key].shape)}"
            for key in expected.keys() & self.weights.keys()
            if self.weights[key].shape != expected[key].shape
        ]
        problems += [
            f"{key} holds {value.dtype}, {value.layout}; expected {expected[key].dtype}"
            for key, value in self.weights.items()
            if key in expected and not _converts(value, expected[key])
        ]
        if problems:
            raise UserError(
                f"checkpoint {self.path}: looks like {self.system}, but {sorted(problems)[0]} "
                f"({len(problems)} tensors do not fit)"
            )
        require_finite(self.weights, self.path)


def require_finite(weights: StateDict, path: str | Path) -> None:
    """Raise `UserError` if weights of the checkpoint `path` are NaN or infinite."""
    if bad := [key for key, weight in weights.items() if not weight.isfinite().all()]:
        raise UserError(
            f"checkpoint {path}: NaN or infinity in {len(bad)} of {len(weights)} tensors, e.g. {bad[0]}; the training "
            "went wrong or the file is damaged, so take an earlier checkpoint"
        )


def load(path: str | Path, padding: str | None = None, trust: bool | str = False) -> Enhancer:
    """Return an enhancer in evaluation mode from a checkpoint of this framework or a published one.

    path: a file, the folder of a run, the name of published weights such as `gtcrn-dns3`, which are fetched once, or
    `hf://owner/name@revision/file`.
    padding: `zeros`, `reflect` or `none` at the ends of whole utterances; None keeps that of the training, or zeros
    for a published checkpoint. trust: True imports the model that a checkpoint names although it is code outside this
    framework, with a line in the log; a dotted name allows that model alone. Code in the file itself never runs.
    Raises `UserError` if the file is missing, is no checkpoint, holds code, names a model that is not trusted, or
    does not fit any known system.
    """
    return open_checkpoint(path, trust).enhancer(padding)


def open_checkpoint(path: str | Path, trust: bool | str = False) -> Checkpoint:
    """Read a checkpoint of this framework or a published one. path, trust and errors are those of `load`."""
    path = checkpoint_file(path)
    content = read_checkpoint(path)
    # at once, since a training may write another file there; torch maps the file and has no bytes to hand on
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return _open_own(path, content, digest, trust) if RECORD in content else _open_published(path, content, digest)


def checkpoint_file(path: str | Path) -> Path:
    """Return the file that a path or a name stands for, see `gtcrn.weights.resolve`; for the folder of a run it is the
    run's best weights."""
    path = resolve(path)
    best = path / "checkpoints" / "best.ckpt"
    if path.is_dir() and not best.is_file():
        raise UserError(f"checkpoint {path}: a folder without checkpoints/best.ckpt; name a file")
    return best if path.is_dir() else path


def read_checkpoint(path: str | Path) -> dict:
    """Return the dict in a checkpoint file, without running code in it (`weights_only=True`).

    path: a file or a run's folder, as in `checkpoint_file`. Raises `UserError` if it is missing or no checkpoint.
    """
    path = checkpoint_file(path)
    if not path.is_file():
        raise UserError(f"checkpoint {path}: no such file")
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except OSError as error:
        raise UserError(f"checkpoint {path}: cannot be read: {error.strerror}") from error
    if keras.is_hdf5(path):
        return keras.read_dtln(path)
    if kind := _foreign_kind(head):
        raise UserError(f"checkpoint {path}: {kind}; expected {EXPECTED}")
    try:
        with warnings.catch_warnings():  # errors below say what the user needs to know
            warnings.simplefilter("ignore")
            # a mapped storage ends where the file ends, even if a damaged record states a larger size
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=_is_intact_zip(path))
    except UserError:
        raise
    except Exception as error:  # a damaged file may make the unpickler raise anything
        if "GLOBAL" in str(error) or "Unsupported class" in str(error):
            raise UserError(
                f"checkpoint {path}: refused, because its pickle holds code or objects and not just tensors; "
                "save the state_dict alone with torch.save(model.state_dict(), path)"
            ) from error
        raise UserError(
            f"checkpoint {path}: damaged, or not a PyTorch checkpoint ({_first_impression(head)}); expected {EXPECTED}"
        ) from error
    if not isinstance(content, dict):
        raise UserError(f"checkpoint {path}: holds a {type(content).__name__}, expected a dict of tensors")
    return content


def to_official(enhancer: Enhancer) -> StateDict:
    """Return the weights under the authors' own key names and layouts, as their code loads them.

    Raises `UserError` for a model without a published format, such as one whose weights no longer are as its authors
    train them, nor as they fold them.
    """
    for published in PUBLISHED:
        if isinstance(enhancer.core, published.core):
            break
    else:
        raise UserError(f"{type(enhancer.core).__name__}: no published format to convert to")
    official = {}
    for key, value in enhancer.core.state_dict().items():
        own, key = key, _rename(key, [(own, authors) for authors, own in published.names], shift=1)
        if _rename(key, published.names, shift=-1) != own:
            raise UserError(
                f"{published.name}: {own} is no tensor of its published format; convert it as it was trained"
            )
        layout = published.layout(key)
        official[key] = layout.to_official(value).contiguous() if layout else value
    return official


def _open_own(path: Path, content: dict, digest: str, trust: bool | str) -> Checkpoint:
    try:
        record = content[RECORD]["model"]
        name, knobs = record["build"], {**record["knobs"]}
        module_name, _, _ = name.rpartition(".")
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"checkpoint {path}: of this framework, but without a record of its model") from error
    build = BUILDERS.get(name) or _imported(path, name, trust)
    state = _state_dict_in(content)
    weights = {key.removeprefix(CORE_PREFIX): value for key, value in state.items() if key.startswith(CORE_PREFIX)}
    others = {key: value for key, value in state.items() if not key.startswith(CORE_PREFIX)}
    level = content[RECORD].get("input_level")  # files of earlier versions have none
    level = level if isinstance(level, float) and math.isfinite(level) else None
    return Checkpoint(path, digest, module_name, build, knobs, weights, level, content[RECORD], others)


def _imported(path: Path, name: str, trust: bool | str) -> Callable[..., Enhancer]:
    """Import the builder of a model outside this framework, which runs its code.

    Raises `UserError` unless the user trusts the file, or if it can't be imported.
    """
    module_name, _, function = name.rpartition(".")
    if name.startswith("gtcrn."):
        raise UserError(
            f"checkpoint {path}: asks for {name}, which is not a model of this framework; made by another version?"
        )
    if trust not in (True, name):
        raise UserError(
            f"checkpoint {path}: asks for {name}, code outside this framework, which runs when it is imported; "
            "set trust=true if you know where the file comes from"
        )
    if trust is True:
        log.warning("trust=true: importing %s, which %s asks for", name, path)
    try:
        return getattr(importlib.import_module(module_name), function)
    except Exception as error:  # foreign code may raise anything while it is imported
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise UserError(
            f"checkpoint {path}: {name} can't be imported ({reason}); put its folder on PYTHONPATH"
        ) from error


def _check_types(build: Callable[..., Enhancer], knobs: dict[str, Any]) -> None:
    """Raise `UserError` for an argument of `build` whose type is not among the plain ones it is annotated with."""
    for key, hint in get_type_hints(build).items():
        allowed = get_args(hint) if isinstance(hint, UnionType) else (hint,)
        if key not in knobs or not {*allowed} <= {int, float, bool, str, type(None)}:
            continue
        kind = type(knobs[key])
        if kind not in allowed and not (kind is int and float in allowed):
            raise UserError(f"model.{key}={str(knobs[key])[:50]}: of a wrong type, {kind.__name__}")


def _open_published(path: Path, content: dict, digest: str) -> Checkpoint:
    state = _state_dict_in(content)
    for published in PUBLISHED:
        if published.signature in state:
            break
    else:
        held = f"{len(state)} tensors ({', '.join(list(state)[:3])}, …)" if state else "no tensors"
        raise UserError(
            f"checkpoint {path}: holds {held}, which is none of: {', '.join(p.name for p in PUBLISHED)}, "
            "or a checkpoint of this framework"
        )
    try:
        knobs = published.knobs(state)
        weights = {
            _rename(key, published.names, shift=-1): layout.from_official(value)
            if (layout := published.layout(key))
            else value
            for key, value in state.items()
        }
    except KeyError as error:
        raise UserError(f"checkpoint {path}: looks like {published.name}, but {error} is missing") from error
    except Exception as error:  # tensors of impossible shapes and kinds may raise anything
        raise UserError(f"checkpoint {path}: looks like {published.name}, but a shape is impossible") from error
    return Checkpoint(path, digest, published.name, published.build, knobs, weights, published.input_level, {}, {})


def _state_dict_in(content: dict) -> StateDict:
    for wrapper in ("model", "state_dict", "model_state_dict"):
        if isinstance(content.get(wrapper), dict):
            content = content[wrapper]
            break
    return {
        key.removeprefix("module."): value  # DistributedDataParallel adds this prefix
        for key, value in content.items()
        if isinstance(key, str) and isinstance(value, Tensor)
    }


def _converts(value: Tensor, expected: Tensor) -> bool:
    """Return whether a tensor of a file can be copied into a model's: no sparse one, nor a complex one into a real."""
    same_kind = (value.is_floating_point(), value.is_complex()) == (expected.is_floating_point(), expected.is_complex())
    return same_kind and value.layout is torch.strided and value.device.type == "cpu" and not value.is_quantized


def _rename(key: str, names, shift: int) -> str:
    """Replace the parts of `key` by `names`, and add `shift` to numbers: authors count dual-path blocks from 1, a
    ModuleList from 0."""
    for old, new in names:
        pattern = r"\b" + re.escape(old).replace(r"\{\}", r"(\d+)")
        key = re.sub(pattern, lambda match, new=new: new.format(*(int(n) + shift for n in match.groups())), key)  # type: ignore[misc]
    return key


def _is_intact_zip(path: Path) -> bool:
    """Return whether a file is a zip archive of `torch.save`; False for the older format, a bare pickle.

    Raises BadZipFile if a checksum in the archive does not fit, which torch does not check, and `UserError` for a
    TorchScript program.
    """
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        if any(name.endswith("/constants.pkl") for name in archive.namelist()):
            raise UserError(f"checkpoint {path}: a TorchScript program; expected {EXPECTED}")
        # stored as they are, members can't be larger than the file
        if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
            raise zipfile.BadZipFile("compressed, which torch.save never does")
        if damaged := archive.testzip():
            raise zipfile.BadZipFile(f"the checksum of {damaged} is another")
    return True


def _foreign_kind(head: bytes) -> str | None:
    """Return what type a file that is no checkpoint has by its first bytes, in words; None if it is not known."""
    for offset, signature, kind in _FOREIGN:
        if head[offset:].startswith(signature):
            return kind
    # ONNX has no signature: its first field is a small version number, its second one of those that follow it
    if len(head) > 2 and head[0] == 0x08 and head[1] < 0x20 and head[2] in (0x12, 0x1A, 0x22, 0x28, 0x3A, 0x42):
        return "an ONNX file"
    return None


def _first_impression(head: bytes) -> str:
    if not head:
        return "it is empty"
    if head.startswith(b"PK"):
        return "a zip archive that is cut off or holds something else"
    if all(byte in b"\t\n\r" or byte >= 0x20 for byte in head):
        return "it begins like a text"
    return "its first bytes are of no known kind"
