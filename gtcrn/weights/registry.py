"""The registry of weights, which is read from `registry.yaml`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

FILE = Path(__file__).with_name("registry.yaml")


@dataclass(frozen=True)
class Entry:
    """Weights that have a name; `registry.yaml` describes the fields."""

    name: str
    system: str
    trained_on: str
    licence: str
    origin: str
    url: str | None = None
    member: str | None = None
    file: str | None = None
    sha256: str | None = None
    bytes: int | None = None
    padding: str | None = None
    published: str = ""
    measured: dict[str, dict[str, float]] = field(default_factory=dict)

    @property
    def packaged(self) -> Path | None:
        """The file in this package, None if the weights are published elsewhere."""
        return FILE.with_name(self.file) if self.file else None


def entries() -> dict[str, Entry]:
    """Return all weights that have a name, by name."""
    import yaml  # here, since a `Denoiser` of a file needs no package for it

    return {name: Entry(name, **fields) for name, fields in yaml.safe_load(FILE.read_text(encoding="utf-8")).items()}


def known(sha256: str) -> Entry | None:
    """Return the weights whose file has this SHA-256, None if it is of none."""
    return next((entry for entry in entries().values() if entry.sha256 == sha256), None)
