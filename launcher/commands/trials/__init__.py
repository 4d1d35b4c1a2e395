"""Short runs of a script, in folders of their own, and how two of them are compared; no torch."""
