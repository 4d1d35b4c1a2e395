"""Streams as training data: those that seek, and those that keep their position."""
