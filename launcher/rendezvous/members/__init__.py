"""Which nodes take part in a run, which are lost, and which leads."""
