"""Variables of torch in the environment that end a run before its first step."""

import os
import subprocess
import sys
from typing import Any

import pytest

pytestmark = pytest.mark.timeout(120)

SCRIPT = """
from launcher import Run
from linear_run import prepare, train

def main(run):
    given = {}
    if "accelerate" in sys.argv:
        from accelerate import Accelerator
        given = {"accelerator": Accelerator(cpu=True)}
    job = prepare(run, epochs=1, **given)
    for step in job:
        train(job, step)

Run.start(main)
"""
PLAIN = """
import torch, torch.distributed as dist
dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(2, 2))
"""


@pytest.mark.parametrize("num_ranks", ["1", "2"])
def test_an_interface_that_is_not_there(launch: Any, num_ranks: str) -> None:
    environ = {"GLOO_SOCKET_IFNAME": "nope0"}
    launched = launch("--nproc-per-node", num_ranks, launch.script(SCRIPT), env=environ)
    assert launched.wait(60) == 2
    assert "GLOO_SOCKET_IFNAME=nope0: gloo finds no address of such a" in launched.stderr
    assert "Traceback" not in launched.stderr


@pytest.mark.parametrize("strategy", ["ddp", "accelerate"])
def test_the_debug_level_with_which_torch_crashes(launch: Any, strategy: str) -> None:
    environ = {"TORCH_DISTRIBUTED_DEBUG": "DETAIL"}
    # Cold: torch reads the variable where it is imported.
    words = (
        "--cold",
        "--nproc-per-node",
        "2",
        "--strategy",
        strategy,
        launch.script(SCRIPT),
        strategy,
    )
    launched = launch(*words, env=environ)
    assert launched.wait(60) == 2
    assert "TORCH_DISTRIBUTED_DEBUG=DETAIL: with it torch" in launched.stderr
    assert "Segmentation" not in launched.stderr


def test_torch_still_crashes_so() -> None:
    """When this fails, `refuse_detail_on_gloo` can go, for the torch that has mended it."""
    environ = {**os.environ, "TORCH_DISTRIBUTED_DEBUG": "DETAIL"}
    done = subprocess.run([sys.executable, "-c", PLAIN], env=environ, capture_output=True)
    assert done.returncode == -11
