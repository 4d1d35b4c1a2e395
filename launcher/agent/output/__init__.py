"""What the ranks write: to the console and to log files."""
