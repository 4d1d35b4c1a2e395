"""Engines in which the user's own optimizer steps."""
