"""What the launcher prints, and text of others made fit to be printed."""
