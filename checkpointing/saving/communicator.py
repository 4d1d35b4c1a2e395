"""What a save needs from the process group: two collectives of JSON values."""

from typing import Protocol

from ..format.strict_json import JSON


class Communicator(Protocol):
    """The ranks that save one checkpoint together. Rank 0 is the coordinator."""

    @property
    def rank(self) -> int:
        """This process, in [0, world_size)."""

    @property
    def world_size(self) -> int:
        """The number of processes, at least 1."""

    def gather(self, value: JSON) -> list[JSON] | None:
        """Return everyone's values in rank order on the coordinator, None elsewhere.

        Called on every rank.
        """

    def broadcast(self, value: JSON) -> JSON:
        """Return the coordinator's value; the other ranks' values are ignored.

        Called on every rank.
        """


class LocalCommunicator:
    """A world of one process."""

    rank = 0
    world_size = 1

    def gather(self, value: JSON) -> list[JSON] | None:
        """Return the value, alone in a list."""
        return [value]

    def broadcast(self, value: JSON) -> JSON:
        """Return the value."""
        return value
