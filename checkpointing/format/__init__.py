"""What is on disk, as values; pure."""
