"""The files of a run, and what they say; no torch."""
