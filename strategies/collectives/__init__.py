"""Process groups, and small sums on the host."""
