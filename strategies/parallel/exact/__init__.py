"""Gradients whose sum over micro-batches and ranks does not depend on the order."""
