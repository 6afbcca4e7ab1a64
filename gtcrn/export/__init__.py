"""From a checkpoint to a file for another runtime, proved there before it is published. Nothing is imported here."""
