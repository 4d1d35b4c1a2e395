"""The files of a run, and their content; no torch."""
