"""Loader workers: they outlive signals, and their deaths are seen to."""
