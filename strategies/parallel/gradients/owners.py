"""Numbers that ranks on the host tell each other: to the one that owns them, and around.

Through memory that they share, or point to point, since gloo's collectives for this copy all of it
twice more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist

from ...collectives.order_free import CHUNK_ELEMENTS, add_converted_
from ...collectives.shared_memory import SharedMemory

_AT_A_TIME = 1 << 19
"""Elements that are told at a time: 2 MiB in float32, which are there twice."""
_ITEM_BYTES = torch.float32.itemsize
_ROWS = 3
"""Tag of messages of `add_of_others`."""


def rows_size_bytes(longest: int, num_rows: int) -> int:
    """Return the room that `add_of_others` needs in memory; pure.

    Args:
        longest: elements of any row.
        num_rows: of a rank.
    """
    return _ITEM_BYTES * (num_rows - 1) * min(longest, _elements_at_a_time(num_rows))


def _elements_at_a_time(num_rows: int) -> int:
    return max(_AT_A_TIME // num_rows, 1)


def _slot(about: int, of: int) -> int:
    """Return the how manyth of what a rank tells of others is about this one."""
    return about - (about > of)


def add_of_others(
    own: torch.Tensor,
    rows: Sequence[torch.Tensor],
    memory: SharedMemory | None,
    group: dist.ProcessGroup | None = None,
) -> None:
    """Add to what a rank owns what all others have of it. Called on every rank.

    What is rounded to a unit has at most 24 bits left: it is told in float32, and loses none.

    Args:
        own: float64, on the host; as long as this rank's row, and may be that.
        rows: float64, one for each rank, as long on every rank; of numbers of at most 24 bits.
        memory: that all ranks of the run share, with room of `rows_size_bytes`; each of them then
            adds at once, in whichever group. None: numbers are sent.
        group: None: all ranks.
    """
    rank = dist.get_rank(group)
    step = _elements_at_a_time(len(rows))
    scratch = torch.empty(CHUNK_ELEMENTS, dtype=torch.float64)
    for begin in range(0, max(map(len, rows)), step):
        parts = [row[begin : begin + step] for row in rows]
        here = own[begin : begin + step]
        told = _sent(parts, rank, group) if memory is None else _told(parts, rank, memory, group)
        for numbers in told:
            add_converted_(here, numbers, scratch)


def _sent(
    parts: Sequence[torch.Tensor], rank: int, group: dist.ProcessGroup | None
) -> list[torch.Tensor]:
    """Send each other rank a part; return what they send."""
    sent = [part if other == rank else part.float() for other, part in enumerate(parts)]
    received = [torch.empty(len(parts[rank])) for _ in parts]
    wait_for(send_around(sent, received, rank, tag=_ROWS, group=group))
    return received[:rank] + received[rank + 1 :]


def _told(
    parts: Sequence[torch.Tensor],
    rank: int,
    memory: SharedMemory,
    group: dist.ProcessGroup | None,
) -> list[torch.Tensor]:
    """Tell each other rank a part; return what they tell, which is there until the next meeting."""
    members = range(len(parts)) if group is None else dist.get_process_group_ranks(group)
    others = [other for other in range(len(parts)) if other != rank]
    slot_bytes = _ITEM_BYTES * max(map(len, parts))
    for other in others:
        begin = slot_bytes * _slot(other, of=rank)
        memory.mine(begin, len(parts[other]), torch.float32).copy_(parts[other])
    memory.meet()
    own = len(parts[rank]), torch.float32
    return [
        memory.theirs(members[other], slot_bytes * _slot(rank, of=other), *own) for other in others
    ]


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
