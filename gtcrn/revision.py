"""Which state of this code a result comes from."""

from __future__ import annotations

import subprocess
from pathlib import Path


def revision() -> str:
    """Git's name of this code, ending in -dirty if it was changed since; "unknown" where git can't tell."""
    folder = Path(__file__).parent
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):  # no git, or no repository
        return "unknown"
