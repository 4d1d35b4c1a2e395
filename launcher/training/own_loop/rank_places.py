"""What each rank keeps for itself in a checkpoint: its random numbers and its loader's state."""

from __future__ import annotations

import json
from typing import Any

import torch

from checkpointing import JSON
from strategies import HostCommunicator
from strategies.data.streams.state_text import from_text, to_text


class RankPlaces:
    """The places of all ranks, as one of the objects of a checkpoint.

    As bytes in a tensor, which the coordinator's shard holds: the manifest, which every rank reads,
    would grow with the number of ranks.
    """

    NAME = "own loop: each rank's place"

    def __init__(self, rank: int) -> None:
        self._rank = rank
        self._gathered: list[bytes] = []
        self.restored: dict[str, Any] | None = None
        """What this rank had when the checkpoint was made; None: nothing, or a rank less."""

    def gather(self, mine: dict[str, Any], communicator: HostCommunicator) -> None:
        """Collect what every rank keeps, on the coordinator. Called on every rank."""
        found = communicator.gather(to_text(mine, "the place of a rank"))
        self._gathered = [json.dumps(one).encode() for one in found or []]

    def state(self) -> Any:
        """Return all places, on the coordinator."""
        whole = bytearray(b"".join(self._gathered)) or bytearray(1)
        data = torch.frombuffer(whole, dtype=torch.uint8)
        return {"sizes": [len(one) for one in self._gathered], "places": data}

    def restore(self, state: Any) -> None:
        """Find this rank's own. Called on every rank."""
        sizes = state["sizes"]
        if self._rank >= len(sizes):
            self.restored = None
            return
        begin = sum(sizes[: self._rank])
        raw = state["places"].numpy().tobytes()[begin : begin + sizes[self._rank]]
        text: JSON = json.loads(raw)
        self.restored = from_text(text)
