"""When a run stops: early stopping, plateaus."""
