"""The systems, one file each: `build(...)` takes the parameters of its YAML file and returns an `Enhancer`."""
