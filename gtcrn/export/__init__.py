"""The export of a checkpoint to a file for another runtime, proved there first. Nothing is imported here."""
