"""`--strategy auto`: measure, estimate, choose."""
