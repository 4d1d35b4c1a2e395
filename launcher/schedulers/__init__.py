"""Batch systems as places of a start: which one this is, and what each adds; no torch, no numpy.

What the command asks of a place is `launcher.agent.cluster.ClusterEnvironment`.
"""
