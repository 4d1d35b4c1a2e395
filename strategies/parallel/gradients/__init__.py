"""The gradients of a step: their norm, and sums that do not depend on the order."""
