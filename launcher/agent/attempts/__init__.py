"""One attempt, from its start to what follows from its end."""
