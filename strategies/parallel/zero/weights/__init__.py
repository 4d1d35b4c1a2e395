"""Weights that a script reads or writes past what DeepSpeed follows."""
