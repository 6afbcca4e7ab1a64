"""Fixtures for tests of files in integers."""

from fixtures.integers import enhancer, least_snr, network, noise, some_bands  # noqa: F401
