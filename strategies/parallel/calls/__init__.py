"""The model as a loop calls it, and what a backward has gone through."""
