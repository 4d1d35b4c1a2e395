"""Build a model: deferred, sharded, by blocks."""
