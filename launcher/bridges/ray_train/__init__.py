"""Ray Train: its workers start the launcher, and pass its preemption notices on to it."""
