"""One optimizer step: what the script iterates over, and what serves it."""
