"""Corpora, datasets and loaders. Nothing is imported here: `from gtcrn.data import audio` stays light."""
