"""Exact sums in memory that processes of one host share."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.integration.workers.shared_sums_worker import digests
from tests.strategies.parallel.gradients.thread_ranks import as_ranks

pytestmark = pytest.mark.timeout(180)
ROOT = Path(__file__).parents[3]
WORKER = str(ROOT / "tests" / "integration" / "workers" / "shared_sums_worker.py")
LIMIT_S = 150.0


def of_processes(what: str, world_size: int) -> list[tuple[int, Any]]:
    """How each of so many connected ranks ends, and what it prints."""
    links: list[dict[int, socket.socket]] = [{} for _ in range(world_size)]
    for low in range(world_size):
        for high in range(low + 1, world_size):
            pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            links[low][high], links[high][low] = pair
    running = []
    for rank, own in enumerate(links):
        descriptors = {other: link.fileno() for other, link in own.items()}
        others = [f"{other}={descriptor}" for other, descriptor in descriptors.items()]
        running.append(
            subprocess.Popen(
                [sys.executable, WORKER, what, str(rank), *others],
                pass_fds=list(descriptors.values()),
                env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
                stdout=subprocess.PIPE,
                text=True,
            )
        )
    for own in links:
        for link in own.values():
            link.close()
    try:
        printed = [one.communicate(timeout=LIMIT_S)[0] for one in running]
    finally:
        for one in running:
            one.kill()
    return [
        (one.returncode, json.loads(text) if text else None)
        for one, text in zip(running, printed, strict=True)
    ]


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_processes_find_the_bits_of_one_rank_run_after_run(
    world_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of memory nothing is left after a run, and no descriptor while it is used."""
    (truth,) = as_ranks(monkeypatch, 1, digests)
    for code, runs in of_processes("sums", world_size):
        assert code == 0
        for own, held, left in runs:
            assert own == truth
            maps = 0 if world_size == 1 else world_size
            assert held == {"maps": maps, "descriptors": 0}
            assert left == {"maps": 0, "descriptors": 0}


def test_forked_workers_do_not_have_the_memory() -> None:
    nothing = {"maps": 0, "descriptors": 0}
    assert of_processes("loaders", 2) == [(0, [True, nothing, nothing])] * 2


def test_a_rank_that_is_killed_is_named_by_the_others() -> None:
    *others, (code, _) = of_processes("lost", 3)
    assert code == -9
    for rank, (ended, told) in enumerate(others):
        assert ended == 0
        # Whoever sees it first ends, and is then gone for the other.
        assert f"has closed its connection to rank {rank}" in told
    assert any("rank 2 has closed" in told for _, told in others)
