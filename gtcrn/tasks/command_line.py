"""What is wrong with a command line before there is a configuration, told in a line."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import ConfigCompositionException, HydraException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException

from gtcrn.files import unwritable


@contextmanager
def errors_told() -> Iterator[None]:
    """Tell what Hydra finds wrong with a command line, without a traceback, and exit with code 2."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra lets its errors through; else it prints them, most with a traceback
    try:
        yield
    except OverrideParseException as error:
        sys.exit(_told(f"{error.override}: {advice(error.override) or error.message}"))
    except ConfigCompositionException as error:
        sys.exit(_told(_without_plus(str(error)) or str(error)))
    except (HydraException, OmegaConfBaseException) as error:  # of a few lines, which say what there is to choose from
        sys.exit(_told("\n".join(map(str, filter(None, (error, error.__cause__))))))
    except OSError as error:  # Hydra makes the run's folder, and of a full disk the error has no name of a file
        told = unwritable(error.filename, error) if error.filename else f"the run's folder: {error.strerror}"
        sys.exit(_told(f"{told}; name another folder with hydra.run.dir="))
    except ValueError as error:  # of a group that is null, without its name
        nulls = ", ".join(word for word in sys.argv[1:] if word.endswith("=null"))
        sys.exit(_told(f"{nulls}: {error}" if nulls else str(error)))
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        sys.exit(130)


def _without_plus(message: str) -> str | None:
    """Return how to type a choice that has a plus and needs none, None if that isn't what Hydra complains of."""
    doubled = re.match("Multiple values for ([^ ]+)\\.", message)
    typed = next((word for word in sys.argv[1:] if doubled and word.startswith(f"+{doubled[1]}=")), None)
    return typed and f"{typed}: leave the plus out: {typed[1:]}"


def _told(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return 2


def advice(override: str) -> str | None:
    """Return how to type an override whose value Hydra can't read, such as a path with `=` or `(`; None if it isn't
    the value that is wrong."""
    key, equals, value = override.partition("=")
    typed = in_quotes(key, os.path.expanduser(value))
    try:
        OverridesParser.create().parse_override(shlex.split(typed)[0])
    except HydraException:
        return None
    return f"Hydra can't read this value; text, such as a path, may have to stand in two kinds of quotes: {typed}"


def in_quotes(key: str, value: str) -> str:
    """Return `'key="value"'`: for a shell, an override whose value is this text, whatever its letters."""
    return shlex.quote(f"{key}={QuotedString(value, Quote.double).with_quotes()}")
