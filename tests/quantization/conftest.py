"""Fixtures for tests of networks in integers."""

from fixtures.integers import enhancer, least_snr, network, noise, some_bands  # noqa: F401
