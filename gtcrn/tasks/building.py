"""Objects are built from the configuration here: models, data, and whatever else has a `_target_`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf

from gtcrn import kernels
from gtcrn.data.speech import SpeechData
from gtcrn.errors import UserError
from gtcrn.models.enhancer import Enhancer
from gtcrn.models.pretrained import Checkpoint, open_checkpoint
from gtcrn.quantization.checkpoint import holds_integers
from gtcrn.runtime.denoiser import SUFFIXES
from gtcrn.tasks import mendable
from gtcrn.tasks.checking import check_object
from gtcrn.weights import resolve

WITHOUT_ARCHITECTURE = {"padding", "dropout"}  # knobs of a model that do not change its network


def build(config: DictConfig, **parts: Any) -> Any:
    """Build an object as `hydra.utils.instantiate` does. Raises UserError in one line that names the key at fault.

    parts: arguments that the configuration does not hold. The list that the configuration has under the key of a part,
    such as a trainer's callbacks, is appended to that part if it is a list too; any other value there is refused.
    """
    full_key = config._get_full_key  # private, but OmegaConf has no public way to ask where a node lies
    if "_target_" not in config:  # e.g. model=all, which lists the rows of a table
        raise UserError(f"{full_key('_target_')} is missing: this choice is nothing to build; take another")
    check_object(OmegaConf.to_container(config, resolve=True), (), full_key(None))
    for key in parts.keys() & config.keys():
        if not isinstance(parts[key], list) or not isinstance(config[key], ListConfig):
            raise UserError(f"{full_key(key)}: is set by the task itself; leave it out, or add a list")
    try:
        further = {key: instantiate(config[key], _convert_="all") for key in parts.keys() & config.keys()}
        parts |= {key: [*parts[key], *added] for key, added in further.items()}
        return instantiate(config, _convert_="all", **parts)
    except InstantiationException as error:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, Exception) and mendable(cause):
                raise cause from None
            cause = cause.__cause__
        reason = str(error.__cause__ or error).splitlines()[0]
        raise UserError(f"{config.get('_target_')}: {reason}; compare your keys with conf/") from error


def build_enhancer(config: DictConfig) -> Enhancer:
    """Build the model of a configuration. Raises UserError as `build` does, and if it makes something else."""
    enhancer = build(config)
    if not isinstance(enhancer, Enhancer):
        raise UserError(f"model._target_={config._target_}: makes no Enhancer but {type(enhancer).__name__}")
    return enhancer


def require(cfg: DictConfig, key: str) -> Any:
    """Return the value of a key that this task requires. Raises UserError if it is not given."""
    if OmegaConf.is_missing(cfg, key):
        raise UserError(f"task={cfg.task} needs {key}=…; see gtcrn --help")
    return cfg[key]


def is_exported(cfg: DictConfig) -> bool:
    """Return whether `ckpt=` stands for an exported file, which a `Denoiser` opens, and for no checkpoint."""
    return resolve(cfg.ckpt).suffix.lower() in SUFFIXES


def model_record(cfg: DictConfig) -> dict:
    """Return the model's configuration as plain data, from which a checkpoint rebuilds the model."""
    knobs = OmegaConf.to_container(cfg.model, resolve=True)
    return {"build": knobs.pop("_target_"), "knobs": knobs}


def configure_torch(cfg: DictConfig) -> None:
    """Set threads and kernels, and flush denormals, which in silence make CPU arithmetic many times slower."""
    torch.set_flush_denormal(True)
    torch.set_num_threads(cfg.threads)
    kernels.use(cfg.kernels)


def trusted(cfg: DictConfig) -> bool | str:
    """Return what `gtcrn.load` may import for a checkpoint: anything for `trust=true`, else what `model=` names."""
    return cfg.trust or cfg.model.get("_target_", False)


def load_or_build(cfg: DictConfig) -> Enhancer:
    """Return the enhancer of `ckpt=`, as `load_checkpoint` does, or a fresh one of `model=`."""
    if cfg.ckpt is None:
        return build_enhancer(cfg.model)
    _, enhancer = load_checkpoint(cfg)
    return enhancer


def load_float(cfg: DictConfig) -> Enhancer:
    """Return the enhancer of `ckpt=`, as `load_checkpoint` does.

    Raises UserError if it holds integers: PyTorch simulates them over whole utterances alone.
    """
    checkpoint, enhancer = load_checkpoint(cfg)
    if holds_integers(checkpoint):
        raise UserError(
            f"ckpt={cfg.ckpt}: holds integers, which run from a file: task=export format=litert quantize=int8 "
            "ckpt=…, and give that"
        )
    return enhancer


def load_checkpoint(cfg: DictConfig) -> tuple[Checkpoint, Enhancer]:
    """Open the file of `ckpt=`, the only time that a task does so, and build its enhancer.

    A checkpoint brings its own architecture: overrides of the model beside it would have no effect,
    and so are refused; `model=` is allowed if it names what is in the file. `cfg.model.sample_rate` becomes the
    enhancer's, so that data follow the model in hand.
    """
    checkpoint = open_checkpoint(cfg.ckpt, trusted(cfg))
    enhancer = checkpoint.enhancer(cfg.padding)
    overridden = HydraConfig.get().overrides.task if HydraConfig.initialized() else []
    keys = {override.lstrip("+").partition("=")[0]: override for override in overridden}
    for key, override in keys.items():
        if key.startswith("model.") or key == "streaming":
            raise UserError(
                f"{override}: has no effect, since ckpt={cfg.ckpt} brings its own architecture; leave it out"
            )
    if "model" in keys:
        _require_same(cfg, enhancer, checkpoint.knobs)
    cfg.model.sample_rate = enhancer.sample_rate
    return checkpoint, enhancer


def _require_same(cfg: DictConfig, held: Enhancer, knobs: dict) -> None:
    """Raise `UserError` if `model=` is not what the checkpoint holds: another system, or other knobs."""
    named = build_enhancer(cfg.model)
    choice = f"model={HydraConfig.get().runtime.choices.model}"
    if type(held.core) is not type(named.core):
        raise UserError(
            f"ckpt={cfg.ckpt} holds {type(held.core).__name__}, but {choice} is {type(named.core).__name__}; "
            "leave model= out"
        )
    differing = differing_knobs(cfg, knobs)
    if differing:
        raise UserError(
            f"ckpt={cfg.ckpt} holds {', '.join(f'{key}={stored}' for key, (stored, _) in differing.items())}, "
            f"but {choice} is {', '.join(f'{key}={chosen}' for key, (_, chosen) in differing.items())}; "
            "a checkpoint brings its own architecture: leave model= out"
        )


def differing_knobs(cfg: DictConfig, knobs: dict) -> dict[str, tuple[Any, Any]]:
    """Return {knob: (the checkpoint's value, that of `model=`)} for the knobs that make another architecture.

    Dropout, the padding at the ends, and two values that mean the same (`r=null`, `r=9`) do not.
    """
    record = model_record(cfg)
    function = get_object(record["build"])
    defaults = {key: parameter.default for key, parameter in inspect.signature(function).parameters.items()}
    chosen, stored = defaults | record["knobs"], defaults | knobs
    compared = chosen.keys() - WITHOUT_ARCHITECTURE
    changed = {key: (stored[key], chosen[key]) for key in compared if stored[key] != chosen[key]}
    architecture = _architecture(function, chosen)
    return {
        key: values
        for key, values in sorted(changed.items())
        if _architecture(function, chosen | {key: values[0]}) != architecture
    }


def _architecture(function: Callable[..., Enhancer], knobs: dict) -> tuple | None:
    """Return the layers with their sizes, and the frames, to compare models by; None if the knobs do not fit."""
    try:
        enhancer = function(**knobs)
    except UserError:
        return None
    return repr(enhancer), enhancer.sample_rate, enhancer.window_length, enhancer.hop_length


def placed(enhancer: Enhancer, device: str) -> Enhancer:
    """Return the enhancer on the device of `device=`. Raises UserError if there is none such."""
    try:
        return enhancer.to(device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device={device}: {str(error).splitlines()[0]}") from error


def build_data(cfg: DictConfig, enhancer: Enhancer) -> SpeechData:
    """Return the data of `data=`. Raises UserError unless they have the enhancer's sample rate."""
    data = build(cfg.data)
    if data.sample_rate != enhancer.sample_rate:
        raise UserError(
            f"data.sample_rate={data.sample_rate} Hz, but the model's is {enhancer.sample_rate} Hz: make them equal, "
            f"e.g. model.sample_rate={data.sample_rate}"
        )
    return data
