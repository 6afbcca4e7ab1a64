"""One module per file format: `write(graph, path, metadata)`. Nothing is imported here: each needs its own package."""
