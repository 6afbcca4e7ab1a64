"""Where the configurations are, and errors that Hydra finds in a command line explained in one line each."""

from __future__ import annotations

import copyreg
import os
import re
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

import gtcrn
from gtcrn.errors import Interrupted, nearest
from gtcrn.files import unwritable

_PACKAGE = Path(gtcrn.__file__).parent
# A wheel carries the configurations in the package; in a checkout they are beside it
CONFIGS = next(folder for folder in (_PACKAGE / "conf", _PACKAGE.parent / "conf") if folder.is_dir())

KEY = re.compile(r"[\w./@:~+$-]+", re.ASCII)  # of an override


def list_quickly() -> None:
    """Make Hydra 1.3 list the choices of groups as quickly as 1.4, for `--help` and for completions in a shell.

    For every group it copies its sources of configurations, and with them the store of all that plugins registered,
    which took more than half of the time of a help. There is one such store in a process, and so a copy may be the
    store itself. Not for a run: the processes of a launcher get a copy in the same way, and have no store of their own.
    """
    copyreg.pickle(ConfigStore, lambda store: (ConfigStore.instance, ()))


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Print what Hydra finds wrong with a command line, without a traceback, and exit with code 2."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # so that Hydra raises its errors instead of printing them
    try:
        yield
    except OverrideParseException as error:
        sys.exit(_show(f"{error.override or repr('')}: {advice(error.override) or error.message}"))
    except MissingConfigException as error:
        sys.exit(_show(_no_such_choice(error)))
    except ConfigCompositionException as error:
        message = str(error)
        sys.exit(_show(_without_plus(message) or _several_values(message) or _no_such_key(error) or message))
    except (HydraException, OmegaConfBaseException) as error:
        sys.exit(_show("\n".join(map(str, filter(None, (error, error.__cause__))))))
    except YAMLError as error:  # names the file and the line
        sys.exit(_show(f"a configuration is no valid YAML: {error}"))
    except BrokenPipeError:  # whoever read the output has enough of it, as in `gtcrn --help | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what Python still flushes at its exit
        sys.exit(1)
    except OSError as error:  # Hydra makes the run's folder; the error of a full disk names no file
        reason = unwritable(error.filename, error) if error.filename else f"the run's folder: {error.strerror}"
        sys.exit(_show(f"{reason}; name another folder with hydra.run.dir="))
    except ValueError as error:  # raised for a choice that is no text, without the name of its group
        sys.exit(_show(_choice_without_text() or str(error)))
    except KeyboardInterrupt as stop:
        interrupted = Interrupted.by(stop, "interrupted")
        print(f"error: {interrupted}", file=sys.stderr)
        sys.exit(interrupted.code)


def _choices(group: str) -> list[str]:
    """Return the choices of a group, [] if there is no such group."""
    return sorted(file.stem for file in (CONFIGS / group).glob("*.yaml"))


def _choice_without_text() -> str | None:
    """Return the line about a choice that is no text, such as null; None if there is none on the command line."""
    for word in sys.argv[1:]:
        group, _, _ = word.partition("=")
        choices = _choices(group)
        if choices and isinstance(OverridesParser.create().parse_override(word).value(), int | float | None):
            return f"{word}: choose one of {', '.join(choices)}"
    return None


def _without_plus(message: str) -> str | None:
    """Return how to type a choice without the plus that it does not need; None if Hydra complains of something else."""
    doubled = re.match("Multiple values for ([^ ]+)\\.", message)
    typed = next((word for word in sys.argv[1:] if doubled and word.startswith(f"+{doubled[1]}=")), None)
    return typed and f"{typed}: leave the plus out: {typed[1:]}"


def _several_values(message: str) -> str | None:
    """Return how to type values with commas between them; None if Hydra complains of something else."""
    several = re.match(r"Ambiguous value for argument '(.+)'", message)
    if not several:
        return None
    key, _, value = several[1].partition("=")
    listed, text = shlex.quote(f"{key}=[{value}]"), in_quotes(key, value)
    return (
        f"{several[1]}: a sweep over these values needs -m; a list of them is {listed}, and a text with commas {text}"
    )


def _no_such_choice(error: MissingConfigException) -> str:
    """Return the line about a choice that its group doesn't have."""
    if not error.missing_cfg_file:
        return str(error)
    group, _, name = error.missing_cfg_file.rpartition("/")
    place = re.match("In '(?!config')(.+?)'", str(error))
    place = f" (asked for in {place[1]})" if place and name not in " ".join(sys.argv[1:]) else ""
    names = error.options or _choices(group)  # Hydra doesn't give the choices of a group that takes several
    return f"{group or '--config-name'}={name}: there is no such choice{place}; {nearest(name, names)}"


def _no_such_key(error: ConfigCompositionException) -> str | None:
    """Return the line about a key that isn't in the configuration; None if Hydra complains of something else."""
    cause = error.__cause__
    if not isinstance(cause, OmegaConfBaseException) or not cause.parent_node:
        return None
    key, beside = str(cause.key), OmegaConf.to_container(cause.parent_node)
    if "/" in key:
        names = [folder.relative_to(CONFIGS).as_posix() for folder in CONFIGS.rglob("*") if folder.is_dir()]
    else:
        names = list(map(str, beside))
    within = [f"{name}.{key}" for name, part in beside.items() if isinstance(part, dict) and key in part]
    if near := within or get_close_matches(key, names, n=1):
        return f"{cause.full_key}: there is no such key; did you mean {' or '.join(near)}?"
    added = str(error).rpartition("To append to your config use ")[2]
    return f"{cause.full_key}: there is no such key; there are {', '.join(names)}; to add it, type {added}"


def _show(message: str) -> int:
    """Print an error in one line, without what libraries append to theirs, and return the exit code."""
    lines = (line.strip() for line in message.splitlines())
    told = (line for line in lines if line and not line.startswith(("full_key:", "object_type=", "reference_type=")))
    print(f"error: {' '.join(told)}", file=sys.stderr)
    return 2


def advice(override: str) -> str | None:
    """Return how to type a word that Hydra can't read: a task, or a value such as a path with `=` or `(`.

    Returns None if something else is wrong.
    """
    if not override:
        return "an empty word, perhaps by an unset variable of the shell; leave it out"
    if override in _choices("task"):
        return f"type task={override}"
    key, equals, value = override.partition("=")
    if not equals:
        return "expected key=value, such as task=enhance; see gtcrn --help"
    if not KEY.fullmatch(key):
        return "is not KEY=VALUE, without spaces and with plain letters in its key"
    typed = in_quotes(key, os.path.expanduser(value))
    try:
        OverridesParser.create().parse_override(shlex.split(typed)[0])
    except HydraException:
        return None
    return f"Hydra can't read this value; text, such as a path, may have to stand in two kinds of quotes: {typed}"


def in_quotes(key: str, value: str) -> str:
    """Return `'key="value"'`, quoted for the shell and for Hydra, so that the value may hold any character."""
    return shlex.quote(f"{key}={QuotedString(value, Quote.double).with_quotes()}")
