"""What is to be started, checked against this machine, as one frozen value."""
