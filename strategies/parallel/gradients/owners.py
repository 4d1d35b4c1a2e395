"""Numbers that ranks on the host send each other: to the one that owns them, and around.

Point to point, since gloo's collectives for this copy all of it twice more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist

from ...collectives.order_free import CHUNK_ELEMENTS, add_converted_

_AT_A_TIME = 1 << 20
"""Elements that are sent and received together: 4 MiB in float32, once each."""
_ROWS = 3
"""Tag of messages of `add_of_others`."""


def add_of_others(
    own: torch.Tensor, rows: Sequence[torch.Tensor], group: dist.ProcessGroup | None = None
) -> None:
    """Add to what a rank owns what all others have of it. Called on every rank.

    What is rounded to a unit has at most 24 bits left: it is sent in float32, and loses none.

    Args:
        own: float64, on the host; as long as this rank's row, and may be that.
        rows: float64, one for each rank, as long on every rank; of numbers of at most 24 bits.
        group: None: all ranks.
    """
    rank = dist.get_rank(group)
    scratch = torch.empty(CHUNK_ELEMENTS, dtype=torch.float64)
    step = max(_AT_A_TIME // len(rows), 1)
    for begin in range(0, max(map(len, rows)), step):
        here = own[begin : begin + step]
        sent = [
            here if other == rank else row[begin : begin + step].float()
            for other, row in enumerate(rows)
        ]
        received = [torch.empty(len(here)) for _ in rows]
        wait_for(send_around(sent, received, rank, tag=_ROWS, group=group))
        for numbers in received[:rank] + received[rank + 1 :]:
            add_converted_(here, numbers, scratch)


def send_around(
    sent: Sequence[torch.Tensor],
    received: Sequence[torch.Tensor],
    rank: int,
    *,
    tag: int,
    group: dist.ProcessGroup | None = None,
) -> list[Any]:
    """Send a tensor to each other rank, and receive one of each. Called on every rank.

    Args:
        sent: contiguous, by rank; what is meant for this one is not looked at, nor what is empty.
        received: likewise, to be filled.
        rank: this one's number in the group.
        tag: of this kind of message; those of a kind are received in the order of their sending.
        group: None: all ranks.

    Returns:
        What is to be waited for, with the process group's own limit.
    """
    others = [(rank + n) % len(sent) for n in range(1, len(sent))]
    works = [
        dist.irecv(received[other], group=group, group_src=other, tag=tag)
        for other in others
        if received[other].numel()
    ]
    works += [
        dist.isend(sent[other], group=group, group_dst=other, tag=tag)
        for other in others
        if sent[other].numel()
    ]
    return works


def wait_for(works: Sequence[Any]) -> None:
    """Wait for what `send_around` has begun."""
    for work in works:
        work.wait()
