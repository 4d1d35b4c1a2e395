"""What a run reports: console, records, trackers."""
