"""What a model costs: parameters, operations, latency, throughput of its data, and what integers save."""
