"""Weights by name: a registry of published ones and of those in this package, each a file that is known by its SHA-256.

path = resolve("gtcrn-dns3")    # in the user's cache, fetched if this is the first time
"""

from gtcrn.weights.files import held, resolve
from gtcrn.weights.registry import Entry, entries, known

__all__ = ["Entry", "entries", "held", "known", "resolve"]
