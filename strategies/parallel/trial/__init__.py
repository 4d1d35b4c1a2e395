"""The optimizer is tried on a few small parameters before it is made for the model."""
