"""One file per system, each a page: `build(...)` takes the knobs of its YAML and gives an `Enhancer`."""
