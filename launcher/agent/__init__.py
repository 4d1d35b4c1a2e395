"""One node: start its ranks, restart them, end with one exit code."""
