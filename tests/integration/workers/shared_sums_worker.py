"""A rank of some on this host that share memory; what connects them is inherited.

usage: shared_sums_worker.py WHAT RANK [OTHER=DESCRIPTOR ...]; prints one line of JSON.
"""

import json
import os
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from typing import Any, cast

import torch
from torch.utils.data import DataLoader

from strategies import Ranks
from strategies.collectives.shared_memory import SharedMemory
from strategies.collectives.socket_channel import SocketChannel
from strategies.errors import LostRankError
from tests.proc_files import memory_files
from tests.strategies.parallel.gradients.test_sums_of_ranks import (
    EXPONENTS,
    steps_of,
    sums_of_a_rank,
)

NAME = "relaunch-sums"
BUCKETS = (1, 30, None)


def digests(ranks: Ranks) -> list[str]:
    """Of all that steps of many and of few micro-batches find, by size of the buckets."""
    found = []
    for bucket_elements in BUCKETS:
        digest = sha256()
        steps = steps_of(7, 2, 5, 9)
        of_rank = sums_of_a_rank(steps, torch.float32, EXPONENTS, bucket_elements, ranks)
        for totals, inexact, exponents in of_rank:
            for total in totals:
                digest.update(b"-" if total is None else total.numpy().tobytes())
            digest.update(repr((inexact, exponents)).encode())
        found.append(digest.hexdigest())
    return found


def sums(ranks: Ranks) -> Any:
    """Two runs after one another; what each finds, and what is left of its memory."""
    found = []
    for _ in range(2):
        assert ranks.neighbours is not None
        memory = SharedMemory(ranks.neighbours)
        own = digests(replace(ranks, memory=memory))
        held = memory_files(os.getpid(), NAME)
        memory.close()
        found.append([own, held, memory_files(os.getpid(), NAME)])
    return found


class Held:
    """Samples that say what the process has that reads them."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> str:
        return json.dumps(memory_files(os.getpid(), NAME))


def loaders(ranks: Ranks) -> Any:
    """What of the memory a forked worker has, and what is left while it still lives."""
    assert ranks.memory is not None
    before = digests(ranks)
    loader = DataLoader(
        cast(Any, Held()), num_workers=1, persistent_workers=True, multiprocessing_context="fork"
    )
    batches = iter(loader)
    (of_worker,) = next(batches)
    same = digests(ranks) == before
    ranks.memory.close()
    return [same, json.loads(of_worker), memory_files(os.getpid(), NAME)]


def lost(ranks: Ranks) -> Any:
    """What the others are told when the last rank is killed between two steps."""
    digests(ranks)
    if ranks.rank == ranks.world_size - 1:
        os.kill(os.getpid(), signal.SIGKILL)
    try:
        digests(ranks)
    except LostRankError as error:
        return str(error)
    return None


def main(what: str, rank: str, *others: str) -> None:
    """Run one of these."""
    torch.set_num_threads(1)
    links = {
        int(other): socket.socket(fileno=int(descriptor))
        for other, descriptor in (pair.split("=") for pair in others)
    }
    channel = SocketChannel(int(rank), links, limit_s=60.0)
    ranks = Ranks(
        rank=int(rank),
        world_size=len(links) + 1,
        device=torch.device("cpu"),
        host_group=cast(Any, None),
        neighbours=channel,
        memory=SharedMemory(channel),
    )
    does: dict[str, Callable[[Ranks], Any]] = {"sums": sums, "loaders": loaders, "lost": lost}
    print(json.dumps(does[what](ranks)), flush=True)
    channel.start([]).wait() if what != "lost" else None


if __name__ == "__main__":
    main(*sys.argv[1:])
