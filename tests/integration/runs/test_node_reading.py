"""What two real ranks read when they load: on one node every byte of shared state once."""

import json
from pathlib import Path

import pytest

from checkpointing.format.manifest import BLOCK_BYTES

WORKER = str(Path(__file__).parents[1] / "workers" / "node_read_worker.py")
pytestmark = pytest.mark.timeout(180)


def load(launch, tmp_path, saver, loader, num_nodes=1, harm="none"):
    words = (str(tmp_path), saver, loader, str(num_nodes), harm)
    launched = launch("--nproc-per-node", "2", WORKER, *words)
    assert launched.wait(150) == 0, launched.stderr
    seen = json.loads((tmp_path / "seen.json").read_text())
    return seen, [one["num_bytes"] / seen["size_bytes"] for one in seen["all"]]


@pytest.mark.quick_cases("ddp")
@pytest.mark.parametrize("saver", ["ddp", "fsdp", "zero2"])
def test_the_ranks_of_a_node_read_replicated_state_once(launch, tmp_path, saver):
    seen, shares = load(launch, tmp_path, saver, "ddp")
    assert seen["is_equal"]
    assert 1.0 <= sum(shares) <= 1.05
    # Each reads its part of it, and not one all.
    assert max(shares) < 0.75


def test_each_node_reads_for_itself(launch, tmp_path):
    seen, shares = load(launch, tmp_path, "ddp", "ddp", num_nodes=2)
    assert seen["is_equal"]
    assert all(1.0 <= share <= 1.05 for share in shares)


@pytest.mark.quick_cases("fsdp")
@pytest.mark.parametrize("loader", ["fsdp", "zero2"])
def test_what_is_sharded_is_read_by_its_rank(launch, tmp_path, loader):
    seen, shares = load(launch, tmp_path, loader, loader)
    assert seen["is_equal"]
    # The buffers lie in a block of the other rank's file.
    assert 1.0 <= sum(shares) <= 1.05 + BLOCK_BYTES / seen["size_bytes"]


@pytest.mark.quick_cases("fsdp")
@pytest.mark.parametrize("loader", ["ddp", "fsdp"])
def test_damage_that_one_rank_reads_is_the_verdict_of_all(launch, tmp_path, loader):
    seen, _ = load(launch, tmp_path, "ddp", loader, harm="flip")
    assert [(one["step"], one["damaged"]) for one in seen["all"]] == [(1, [2])] * 2
    assert seen["is_equal"]
