"""A strategy's state to and from a checkpoint."""
