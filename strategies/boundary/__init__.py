"""Where the ranks agree, once a step, and what follows from it."""
