"""`relaunch rehearse`: runs with seeded faults beside an undisturbed one; no torch."""

from .command import run as run

__all__ = ["run"]
