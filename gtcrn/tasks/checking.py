"""The composed configuration held against types and ranges before a task begins.

The keys that a task reads itself are declared in `gtcrn.tasks.keys`; those of a `_target_` by its own annotations.

Why neither of the usual libraries does this: Hydra's structured configs have no choices of words, no ranges and no
unions, convert "4" to 4 in silence, and would repeat the signature of every `_target_`. pydantic in place of `fits` was
tried: it leaves the walk through targets as it is, saves 24 lines of 458, and says "must be greater than or equal to 1
or null" where a user of a command line is better served by "must be a whole number of at least 1 or null".
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from math import inf, isfinite
from pathlib import Path
from pkgutil import resolve_name
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from gtcrn.errors import UserError, nearest
from gtcrn.tasks import keys
from gtcrn.tasks.command_line import CONFIGS, in_quotes
from gtcrn.tasks.keys import Bound, Built, Section

TARGET = "_target_"
LIBRARIES = ("hydra", "logger")  # keys of others, to whom an empty text may say something
MISSING = "???"  # a value that has to be given; the task says so where it needs it
ON_PATH = "a module of your own is found in the folder in which you start the command, or on PYTHONPATH"
PLAIN = {  # one of it, and many
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    str: ("text", "text"),
    bool: ("true or false", "true or false"),
    NoneType: ("null", "null"),
}


def check(cfg: DictConfig) -> None:
    """Raise `UserError` in a line for the first value that its task, or what is built from it, can't take."""
    if not cfg.get("task"):
        raise UserError("task is missing: choose one, e.g. task=train")
    refuse_empty(cfg)
    refuse_hidden()
    declared = keys.declared(cfg.task)
    typed = OmegaConf.to_container(HydraConfig.get().overrides.task) if HydraConfig.initialized() else []
    added = {line.lstrip("+").partition("=")[0] for line in typed if line.startswith("+")}
    for line in typed:
        group = re.split("[.=@/]", line.lstrip("+~"))[0]
        if declared.get(group) == keys.Unused:
            raise UserError(f"{line}: has no effect in task={cfg.task}; leave it out")
    for key in sorted(added & cfg.keys() - declared.keys()):
        if f"${{{key}}}" not in OmegaConf.to_yaml(cfg):  # a key of one's own that others refer to
            raise UserError(f"+{key}: task={cfg.task} has no such key; {nearest(key, declared)}")
    raw = OmegaConf.to_container(cfg)
    # plain values first, since a `_target_` may import torch, which takes seconds; then the logger, see its module
    for key in sorted(declared, key=lambda key: (TARGET in str(raw.get(key)), key != "logger")):
        annotation = declared[key]
        if annotation not in (Any, keys.Unused):
            if key not in cfg.keys():  # `in` would not see what is to be given yet
                raise UserError(f"{key} is missing: task={cfg.task} needs it, so leave ~{key} or {key}=null out")
            check_value(plain(cfg, key), annotation, key)


def refuse_empty(cfg: DictConfig) -> None:
    """Raise UserError for an empty text anywhere in the configuration.

    It is what an unset variable of the shell leaves behind, and taken for "none" it would mean random weights, a start
    anew or the present folder. What is really meant to be none is null.
    """
    values = OmegaConf.to_container(cfg)
    for key in _empty_in({name: values[name] for name in values if name not in LIBRARIES}):
        raise UserError(f"{key}= is empty, perhaps by an unset variable of the shell; give a value, or leave {key} out")


def refuse_hidden() -> None:
    """Raise UserError if a choice of the user's has the name of one of the framework's, which Hydra would take."""
    if not HydraConfig.initialized():
        return
    runtime = HydraConfig.get().runtime
    folders = [Path(source.path) for source in runtime.config_sources if source.schema == "file"]
    for group, choice in runtime.choices.items():
        file = f"{group.partition('@')[0]}/{choice}.yaml"
        for folder in folders:
            ours, own = CONFIGS / file, folder / file
            if ours.is_file() and own.is_file() and not own.samefile(ours):
                raise UserError(f"{group}={choice}: {own} has the name of one of ours; give it another")


def _empty_in(values: Mapping | Sequence) -> Iterator[str]:
    """Give the keys of empty texts, at any depth."""
    for key, value in values.items() if isinstance(values, Mapping) else enumerate(values):
        if isinstance(value, Mapping | list):
            yield from (f"{key}.{inner}" for inner in _empty_in(value))
        elif isinstance(value, str) and not value.strip():
            yield str(key)


def plain(config: DictConfig, key: str) -> Any:
    """Return what stands under a key as plain data, with what it refers to put in.

    Raises UserError for a reference that leads nowhere.
    """
    try:
        if OmegaConf.is_missing(config, key):
            return MISSING
        value = config[key]
        return OmegaConf.to_container(value, resolve=True) if isinstance(value, DictConfig | ListConfig) else value
    except OmegaConfBaseException as error:
        place = error.full_key or key
        raise UserError(f"{place}: can't be worked out ({str(error).splitlines()[0]}); give a value for it") from error


def check_value(value: Any, annotation: Any, key: str) -> None:
    """Raise `UserError` if the plain data, or anything in them, are not what the annotation takes."""
    allowed = alternatives(annotation)
    if value == MISSING or Any in allowed or inspect.Parameter.empty in allowed:
        return
    if isinstance(value, dict) and TARGET in value:
        check_object(value, allowed, key)
        return
    if value == {} and any(_class_of(one) for one in allowed):  # a choice that is nothing, e.g. masks: none
        return
    if isinstance(value, list) and any(isinstance(part, dict) and TARGET in part for part in value):
        inner = next((get_args(one)[0] for one in allowed if _is(one, Sequence) and get_args(one)), Any)
        for number, part in enumerate(value):
            check_value(part, inner, f"{key}[{number}]")
        return
    for one in allowed:
        if inspect.isclass(one) and issubclass(one, Section) and isinstance(value, dict):
            _check_section(value, one, key)
            return
        if isinstance(value, dict) and _is(one, Mapping):
            _, inner = get_args(one) or (str, Any)
            for name, part in value.items():
                check_value(part, inner, f"{key}.{name}")
            return
    if not any(fits(value, one) for one in allowed):
        kinds = list(dict.fromkeys(filter(None, map(_named, sorted(allowed, key=lambda one: one is NoneType)))))
        hint = f"; as text: {in_quotes(key, str(value))}" if str in allowed and type(value) in (int, float) else ""
        raise UserError(f"{key}={_shown(value)}: must be {' or '.join(kinds)}{hint}")


def check_object(config: dict, allowed: Sequence[Any], key: str) -> None:
    """Raise `UserError` for a target that isn't there or makes none of the `allowed`, if any are, and for its keys."""
    target = located(config[TARGET], f"{key}.{TARGET}")
    wanted = [resolve_name(name) for name in map(_class_of, allowed) if name]
    if inspect.isclass(target) and wanted and not any(issubclass(target, one) for one in wanted):
        names = " or ".join(f"{one.__module__}.{one.__qualname__}" for one in wanted)
        raise UserError(f"{key}.{TARGET}={config[TARGET]}: makes something else; must be a {names}")
    parameters, open_ended = signature_of(target)
    for name, value in config.items():
        if name in parameters:
            check_value(value, _stricter(target, name) or parameters[name].annotation, f"{key}.{name}")
        elif not open_ended and not (name.startswith("_") and name.endswith("_")):  # these are Hydra's own
            raise UserError(f"{key}.{name}: {config[TARGET]} has no such key; {nearest(name, parameters)}")


def _stricter(target: Callable[..., Any], name: str) -> Any:
    """Return what a key of the target must be beyond what its annotation says, None for no more than that."""
    made = target if inspect.isclass(target) else getattr(target, "__annotations__", {}).get("return")
    for (of, key), annotation in keys.STRICTER.items():
        if key == name and inspect.isclass(made) and issubclass(made, resolve_name(of)):
            return annotation
    return None


def alternatives(annotation: Any) -> list[Any]:
    """Return what the annotation takes one or the other of."""
    if get_origin(annotation) in (Union, UnionType):
        return [one for part in get_args(annotation) for one in alternatives(part)]
    return [annotation]


def fits(value: Any, annotation: Any) -> bool:
    """Return whether plain data are of the type, and in its range. Of numbers, none is infinite or NaN."""
    inner = get_args(annotation)
    if get_origin(annotation) is Annotated:
        return fits(value, inner[0]) and all(_within(value, bound) for bound in inner[1:])
    if get_origin(annotation) is Literal:
        return type(value) is not bool and value in inner
    if _is(annotation, tuple) and inner and inner[-1] is not ...:
        return isinstance(value, list) and len(value) == len(inner) and all(map(_fits_one, value, inner))
    if _is(annotation, Sequence):
        return isinstance(value, list) and all(_fits_one(part, inner[0]) for part in value if inner)
    if annotation is float:
        return type(value) in (int, float) and isfinite(value)
    return annotation is Any or annotation in PLAIN and type(value) is annotation


def _fits_one(value: Any, annotation: Any) -> bool:
    return any(fits(value, one) for one in alternatives(annotation))


def _within(value: Any, bound: Any) -> bool:
    if not isinstance(bound, Bound):
        return True
    return bound.least < value <= bound.most or bound.included and value == bound.least


def _is(annotation: Any, kind: type) -> bool:
    """Return whether the annotation is of a kind of container; text, which is a sequence too, is none."""
    bare = get_origin(annotation) or annotation
    return inspect.isclass(bare) and issubclass(bare, kind) and bare is not str


def _class_of(annotation: Any) -> str:
    """Return the name of the class that what is built must be of, "" for plain data."""
    built = next((part for part in get_args(annotation)[1:] if isinstance(part, Built)), None)
    if built or not inspect.isclass(annotation) or annotation in PLAIN or annotation.__module__ == "builtins":
        return built.of if built else ""
    return f"{annotation.__module__}.{annotation.__qualname__}"


def _named(annotation: Any, many: bool = False) -> str:
    """Return the type in words, of one value or of many."""
    inner = get_args(annotation)
    if annotation in PLAIN:
        return PLAIN[annotation][many]
    if get_origin(annotation) is Literal:
        return f"one of {', '.join(map(str, inner))}" if len(inner) > 1 else str(inner[0])
    if bounds := [part for part in inner if isinstance(part, Bound)]:
        least, included, most = bounds[0]
        limits = f"from {least} to {most}" if most < inf else f"{'of at least' if included else 'above'} {least}"
        return f"{_named(inner[0], many)} {limits}"
    if _is(annotation, tuple) and ... not in inner:
        return f"a list of {len(inner)} {_named(inner[0], many=True)}"
    if _is(annotation, Sequence):
        return ("lists" if many else "a list") + (f" of {_named(inner[0], many=True)}" if inner else "")
    if _class_of(annotation) or any(isinstance(part, Built) for part in inner):
        return f"a choice of its group, with a {TARGET}"
    return "keys with values" if _is(annotation, Mapping) else ""


def _shown(value: Any) -> str:
    """Return the value as it would be typed, shortened."""
    text = value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]} …"


def _check_section(value: dict, section: type[Section], key: str) -> None:
    expected = get_type_hints(section, include_extras=True)
    for name in expected:
        if name not in value:
            raise UserError(f"{key}.{name} is missing; leave ~{key}.{name} out, or compare with conf/")
    for name, part in value.items():
        if name not in expected:
            raise UserError(f"{key}.{name}: there is no such key; {nearest(name, expected)}")
        check_value(part, expected[name], f"{key}.{name}")


def located(name: Any, key: str) -> Callable[..., Any]:
    """Return what a `_target_` names. Raises UserError if it isn't there or can't be called."""
    try:
        target = resolve_name(name)
    except (Exception, SystemExit) as error:  # the module that is imported may raise anything, and end the process
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        hint = ON_PATH if isinstance(error, ModuleNotFoundError) else "compare with conf/"
        raise UserError(f"{key}={_shown(name)}: can't be found ({reason}); {hint}") from error
    if not callable(target):
        raise UserError(f"{key}={name}: is no class or function that could build something")
    return target


def signature_of(target: Callable[..., Any]) -> tuple[dict[str, inspect.Parameter], bool]:
    """Return the parameters by name, and whether any other keyword is taken too.

    Keywords that a class hands on are its base's, those that a function hands on belong to what it returns.
    """
    try:
        signature = inspect.signature(target, eval_str=True)
    except (TypeError, ValueError, NameError):  # some of C have none, and annotations may name what isn't imported
        return {}, True
    own = {name: p for name, p in signature.parameters.items() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
    if all(p.kind is not p.VAR_KEYWORD for p in signature.parameters.values()):
        return own, False
    further = target.__bases__[0] if inspect.isclass(target) else signature.return_annotation
    if not inspect.isclass(further) or further in (object, inspect.Signature.empty):
        return own, True
    parameters, open_ended = signature_of(further)
    return parameters | own, open_ended
