"""The embedded corpus of synthetic speech and noise, which is made on the user's machine."""
