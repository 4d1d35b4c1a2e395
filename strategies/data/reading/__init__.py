"""Samples from a data set to the device, as batches of this rank."""
