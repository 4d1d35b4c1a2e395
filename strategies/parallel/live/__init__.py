"""Models and optimizers that a script has built and wrapped itself, seen as strategies."""
