"""Open a checkpoint, verify it, read any range."""
