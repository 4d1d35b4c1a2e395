"""How a start of a run begins on a rank."""
