"""What launcher and rank agree on: environment, signals, files, exit codes."""
