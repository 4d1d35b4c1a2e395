"""Optimizer state and replicated state as fragments."""
