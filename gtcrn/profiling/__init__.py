"""Measurements of what a model costs: parameters, operations, latency, throughput of its data, effects of integers."""
