"""Corpora, datasets and loaders. Nothing is imported here, so that `from gtcrn.data import audio` stays light."""
