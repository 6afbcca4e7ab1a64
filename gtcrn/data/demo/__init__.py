"""The embedded corpus: speech and noise made on the machine."""
