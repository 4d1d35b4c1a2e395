"""The checkpoints of one run: list, retain, compare."""
