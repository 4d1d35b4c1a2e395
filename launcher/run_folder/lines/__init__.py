"""The two files of JSON lines in a run folder: written, read and followed; no torch."""
